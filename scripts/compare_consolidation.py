"""Trains a model for each portfolio and networks for all, with the same seeds; keeps losses and costs side by side.

    python scripts/compare_consolidation.py --config=configs/hotel_bookings.py --alone=lattice --together=lattice,mmoe
        --seeds=0,1,2 --workdir=W --output=docs/results/NAME [--groups=groups.json] [--config.key=value]

`--alone` and `--together` are variants of the config, as in compare_variants.py. The model of a portfolio reads that
portfolio's rows only, has tables of its own, and a learning rate schedule as much shorter as its rows are fewer; all
score the same test rows. `--groups` adds models of the alone variant for the groups of such a file
(partition_portfolios.py), without the columns that its rules drop. A model is asked about every row of its domains, and
its embeddings are the ids that these rows hold. Each run resumes like any; results.json is written again after each
network, and the command can be started again.
"""

import dataclasses
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repeat_run import claim_made_folder, parse_seeds, parse_variant, train_seeds

from wukong_jax.cli.command_line import parse_config_flags, run_script, take_flag
from wukong_jax.config import RunConfig, stretch_schedule
from wukong_jax.errors import UserError
from wukong_jax.strict_mapping import to_mapping

if TYPE_CHECKING:
    from lattice.portfolios.consolidation import Capacity
    from lattice.portfolios.portfolios import PortfolioRows
    from wukong_jax.runs.rows import RunData

LOSS = "normalized_entropy"
METRICS = (LOSS, "auc", "log_loss", "calibration")
Portfolio = str  # "domain/objective"


@dataclasses.dataclass(frozen=True)
class Served:
    """Portfolios served by one or more models: test metrics of each by seed, and what serving takes."""

    metrics: Mapping[Portfolio, Mapping[str, list[float]]]
    capacity: "Capacity"


def main() -> None:
    """Parses, trains alone, in groups and together, compares, writes results.json."""
    arguments = list(sys.argv)
    flags = {name: take_flag(arguments, name) for name in ("alone", "together", "seeds", "output", "config", "workdir")}
    flags["groups"] = take_flag(arguments, "groups", "")
    if not flags["config"]:
        parse_config_flags(arguments, __doc__ or "")  # prints the help
    from lattice.portfolios.groups import load_groups
    from lattice.portfolios.portfolios import measure_portfolios
    from wukong_jax.reports.kept_results import write_results
    from wukong_jax.runs.rows import open_run_data

    seeds, folder = parse_seeds(flags["seeds"]), Path(flags["workdir"])

    def parse(variant: str) -> RunConfig:
        return parse_variant(arguments, f"{flags['config']}:{variant}", folder, __doc__ or "")

    networks = {name: parse(name) for name in flags["together"].split(",")}  # all, before the first trains
    config = parse(flags["alone"])
    claim_made_folder(folder / "data", to_mapping(config.data))
    data = open_run_data(config.data, folder / "data", print)
    portfolios = measure_portfolios(data.splits["train"])
    names = [portfolio.name for portfolio in portfolios.portfolios]
    groups = read_groups(load_groups(Path(flags["groups"])), names) if flags["groups"] else {}

    alone = serve_groups(config, data, {(name,): () for name in names}, portfolios, folder / "alone", seeds)
    rows: list[dict[str, Any]] = []

    def keep(variant: str, served: Served) -> None:
        rows.append({"variant": variant, "seeds": seeds} | describe(served, alone))
        path = write_results(Path(flags["output"]), "python " + " ".join(sys.argv), rows)
        worse = sum(value for key, value in rows[-1].items() if key.endswith("/worse"))
        change = f"NE {rows[-1]['mean_difference']:+.5f} on average, {worse} of {len(names)} portfolios worse"
        print(f"{variant}: {change} (in {path})")

    keep(f"{flags['alone']} for each portfolio", alone)
    for variant, network in networks.items():
        place = folder / "together" / re.sub("[/,]", "_", variant)
        own = dataclasses.replace(network, data=network.data.read_blocks(data.directory))
        keep(variant, read_served({tuple(names): train_seeds(own, place, seeds)}, portfolios))
    if groups:
        keep(
            f"{flags['alone']} for each group",
            serve_groups(config, data, groups, portfolios, folder / "groups", seeds),
        )


def read_groups(
    described: Sequence[Mapping[str, Any]], names: Sequence[Portfolio]
) -> dict[tuple[Portfolio, ...], tuple[str, ...]]:
    """Groups to the columns that they may not read.

    Raises:
      UserError: they do not hold each portfolio of the data once.
    """
    held = [name for group in described for name in group["portfolios"]]
    for name in (*names, *held):
        if held.count(name) != 1 or name not in names:
            times = f"in {held.count(name)} groups" if name in names else "not of this data"
            raise UserError(f"--groups: {name} is {times}; give groups that hold each portfolio of the data once")
    return {tuple(group["portfolios"]): tuple(group["dropped_columns"]) for group in described}


def serve_groups(
    config: RunConfig,
    data: "RunData",
    groups: Mapping[tuple[Portfolio, ...], tuple[str, ...]],
    portfolios: "PortfolioRows",
    folder: Path,
    seeds: list[int],
) -> Served:
    """Trains a model for each group on its rows without its dropped columns, in `folder/<its portfolios>`."""
    from lattice.filter.reduced_rows import write_rewritten_rows
    from lattice.portfolios.groups import split_name
    from lattice.portfolios.rows import build_group_schema, select_group_rows
    from wukong_jax.runs.rows import open_run_data

    trained = {}
    for group, dropped in groups.items():
        place = folder / re.sub(r"[^\w.-]+", "_", "+".join(group))
        claim_made_folder(place / "rows", {"portfolios": group, "dropped_columns": dropped, "data": data.fingerprint})
        made = build_group_schema(data.schema, [split_name(name) for name in group], dropped)
        if not (place / "rows").exists():
            select = functools.partial(select_group_rows, whole=data.schema, group=made)
            write_rewritten_rows(data, made.schema, select, place / "rows")
        rows_config = config.data.read_blocks(place / "rows")
        rows = open_run_data(rows_config, place, print).splits["train"].rows
        own = stretch_schedule(config, rows / data.splits["train"].rows)
        own = dataclasses.replace(own, name=f"{config.name}: {', '.join(group)}", data=rows_config)
        trained[group] = train_seeds(own, place, seeds)
    return read_served(trained, portfolios)


def read_served(
    trained: Mapping[tuple[Portfolio, ...], Mapping[int, Mapping[str, Any]]], portfolios: "PortfolioRows"
) -> Served:
    """Metrics and capacity of the models of groups, from the summaries of their seeds."""
    from lattice.portfolios.consolidation import Capacity, add_capacities

    metrics: dict[Portfolio, dict[str, list[float]]] = {}
    capacities, asked = {}, {}
    all_rows = sum(portfolios.traffic.values())
    for group, summaries in trained.items():
        first = next(iter(summaries.values()))
        for portfolio in group:
            prefix = _find_prefix(first["test"], portfolio)
            metrics[portfolio] = {
                key: [summary["test"][prefix + key] for summary in summaries.values()] for key in METRICS
            }
        domains = {portfolio.rpartition("/")[0] for portfolio in group}
        capacities[group] = Capacity(first["serve_flops_per_example"], portfolios.count_ids(domains))
        asked[group] = sum(portfolios.traffic[domain] for domain in domains) / all_rows
    names = [portfolio.name for portfolio in portfolios.portfolios]
    return Served({name: metrics[name] for name in names}, add_capacities(capacities, asked))


def _find_prefix(metrics: Mapping[str, float], portfolio: Portfolio) -> str:
    """How a portfolio's metrics begin in its model's summary; what there is but one of is left out of names."""
    domain, _, objective = portfolio.rpartition("/")
    candidates = (f"{domain}/{objective}/", f"{objective}/", "")
    for name in candidates:
        if f"{name}{LOSS}" in metrics:
            return name
    raise UserError(f"portfolio {portfolio}: has no test rows to be compared on; leave it out of the data")


def describe(served: Served, alone: Served) -> dict[str, Any]:
    """A row: for each portfolio the metrics and the comparison, their means, and the capacity saved."""
    from lattice.portfolios.consolidation import compare_portfolios

    losses, own = ({name: metrics[LOSS] for name, metrics in one.metrics.items()} for one in (served, alone))
    compared = compare_portfolios(own, losses)
    flops, embeddings = served.capacity.saving_from(alone.capacity)
    row: dict[str, Any] = dataclasses.asdict(served.capacity)
    row |= {"flops_saved": flops, "embeddings_saved": embeddings}
    row["mean_difference"] = sum(one.difference for one in compared) / len(compared)
    for one in compared:
        facts = dataclasses.asdict(one)
        del facts["portfolio"]
        row |= {f"{one.portfolio}/{key}": value for key, value in facts.items()}
        row |= {f"{one.portfolio}/{key}": value for key, value in served.metrics[one.portfolio].items()}
    return row


if __name__ == "__main__":
    run_script(main)
