"""Trains a model for each portfolio and networks for all, with the same seeds; keeps losses and costs side by side.

    python scripts/compare_consolidation.py --config=configs/hotel_bookings.py --alone=lattice --together=lattice,mmoe
        --seeds=0,1,2 --workdir=W --output=docs/results/NAME [--config.key=value]

`--alone` and `--together` are variants of the config, as in compare_variants.py. The model of a portfolio reads that
portfolio's rows only (W/alone/<portfolio>/rows) and has tables of its own; all score the same test rows. Each run
resumes like any; results.json is written again after each network, and the command can be started again.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repeat_run import parse_seeds, parse_variant, train_seeds

from wukong_jax.command_line import parse_config_flags, run_script, take_flag
from wukong_jax.config import DataConfig, RunConfig

if TYPE_CHECKING:
    from lattice.consolidation import Capacity
    from wukong_jax.training.run_data import RunData

METRICS = ("normalized_entropy", "auc", "log_loss", "calibration")
Summaries = Mapping[int, Mapping[str, Any]]


def main() -> None:
    """Parses, trains alone and together, compares, writes results.json."""
    arguments = list(sys.argv)
    names = ("alone", "together", "seeds", "output", "config", "workdir")
    flags = {name: take_flag(arguments, name) for name in names}
    if not flags["config"]:
        parse_config_flags(arguments, __doc__ or "")  # prints the help
    from lattice.consolidation import add_capacities
    from lattice.portfolios import measure_portfolios
    from wukong_jax.training.kept_results import write_results
    from wukong_jax.training.run_data import open_run_data

    seeds, folder = parse_seeds(flags["seeds"]), Path(flags["workdir"])

    def parse(variant: str) -> RunConfig:
        return parse_variant(arguments, f"{flags['config']}:{variant}", folder, __doc__ or "")

    networks = {name: parse(name) for name in flags["together"].split(",")}  # all, before the first trains
    config = parse(flags["alone"])
    data = open_run_data(config.data, folder / "data", print)
    portfolios = measure_portfolios(data.splits["train"]).portfolios
    traffic = {portfolio.name: portfolio.rows / data.splits["train"].rows for portfolio in portfolios}

    alone = {name: train_alone(config, data, name, folder, seeds) for name in traffic}
    apart = add_capacities({name: read_capacity(summaries) for name, summaries in alone.items()}, traffic)
    kept: list[dict[str, Any]] = [
        {"variant": f"a {flags['alone']} for each portfolio", "seeds": seeds}
        | dataclasses.asdict(apart)
        | {f"{name}/{key}": value for name, runs in alone.items() for key, value in read_metrics(runs, "").items()}
    ]
    for variant, network in networks.items():
        data_config = use_rows(network.data, data.directory)
        summaries = train_seeds(dataclasses.replace(network, data=data_config), folder / "together" / variant, seeds)
        kept.append({"variant": variant, "seeds": seeds} | describe(alone, summaries, apart))
        path = write_results(Path(flags["output"]), "python " + " ".join(sys.argv), kept)
        worse = [key for key, value in kept[-1].items() if key.endswith("/worse") and value]
        better = f"NE {kept[-1]['mean_difference']:+.5f} on average, {len(worse)} of {len(traffic)} portfolios worse"
        print(f"{variant}: {better} (in {path})")


def use_rows(config: DataConfig, folder: Path) -> DataConfig:
    """The same rows, prepared already."""
    return dataclasses.replace(config, format="blocks", path=str(folder), schema="", planted=None, portfolios=None)


def train_alone(config: RunConfig, data: "RunData", portfolio: str, folder: Path, seeds: list[int]) -> Summaries:
    """Trains a portfolio's own model on its rows; seed to summary."""
    from lattice.portfolio_groups import split_name
    from lattice.portfolio_rows import build_group_schema, select_group_rows
    from lattice.reduced_rows import write_rewritten_rows

    place = folder / "alone" / re.sub(r"[^\w.-]+", "_", portfolio)
    made = build_group_schema(data.schema, [split_name(portfolio)], ())
    if not (place / "rows").exists():
        write_rewritten_rows(
            data, made.schema, lambda columns: select_group_rows(columns, data.schema, made), place / "rows"
        )
    own = dataclasses.replace(config, name=f"{config.name}: {portfolio}", data=use_rows(config.data, place / "rows"))
    return train_seeds(own, place, seeds)


def read_capacity(summaries: Summaries) -> "Capacity":
    """What serving a model takes; the same for every seed."""
    from lattice.consolidation import Capacity

    summary = next(iter(summaries.values()))
    return Capacity(summary["serve_flops_per_example"], summary["embedding_parameters"])


def read_metrics(summaries: Summaries, prefix: str) -> dict[str, list[float]]:
    """Test metrics by seed; the prefix chooses a portfolio's."""
    return {key: [summary["test"][prefix + key] for summary in summaries.values()] for key in METRICS}


def describe(alone: Mapping[str, Summaries], together: Summaries, apart: "Capacity") -> dict[str, Any]:
    """A network's row: for each portfolio the metrics and the comparison, their mean, and the capacity saved."""
    from lattice.consolidation import compare_portfolios

    def losses(summaries: Summaries, prefix: str) -> list[float]:
        return read_metrics(summaries, prefix)["normalized_entropy"]

    compared = compare_portfolios(
        {name: losses(own, "") for name, own in alone.items()},
        {name: losses(together, _prefix(together, name)) for name in alone},
    )
    capacity = read_capacity(together)
    flops, embeddings = capacity.saving_from(apart)
    row: dict[str, Any] = dataclasses.asdict(capacity) | {"flops_saved": flops, "embeddings_saved": embeddings}
    row["mean_difference"] = sum(one.difference for one in compared) / len(compared)
    for one in compared:
        row |= {f"{one.portfolio}/{key}": value for key, value in dataclasses.asdict(one).items() if key != "portfolio"}
        metrics = read_metrics(together, _prefix(together, one.portfolio))
        row |= {f"{one.portfolio}/{key}": value for key, value in metrics.items()}
    return row


def _prefix(together: Summaries, portfolio: str) -> str:
    """How the metrics of a portfolio begin: without the domain where there is one, without both where one of each."""
    known = next(iter(together.values()))["test"]
    candidates = (f"{portfolio}/", f"{portfolio.rpartition('/')[2]}/", "")
    return next(name for name in candidates if f"{name}{METRICS[0]}" in known)


if __name__ == "__main__":
    run_script(main)
