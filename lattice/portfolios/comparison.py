"""Compares one model per portfolio with networks for all portfolios, with the same seeds and test rows.

The model of a portfolio, or of a group of portfolios, is trained on the rows of these portfolios only. It has separate
tables, and its learning-rate schedule is shortened in proportion to its rows. A model serves every row of its domains,
and its embeddings are those of the ids in these rows.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lattice.network.options import LatticeOptions
from lattice.portfolios.consolidation import Capacity, add_capacities, compare_portfolios
from lattice.portfolios.groups import load_groups
from lattice.portfolios.portfolios import PortfolioRows, measure_portfolios
from lattice.portfolios.rows import write_group_rows
from wukong_jax.config import RunConfig, stretch_schedule
from wukong_jax.errors import UserError
from wukong_jax.idle_options import accept_idle_options
from wukong_jax.runs.rows import RunData, open_run_data, prepared_directory
from wukong_jax.runs.shared_rows import claim_made_folder, write_once
from wukong_jax.scaling.repeats import train_seeds
from wukong_jax.strict_mapping import build_dataclass, to_mapping

LOSS = "normalized_entropy"
_CAN_UNTIE = "lattice.network:build"
METRICS = (LOSS, "auc", "log_loss", "calibration")
Portfolio = str  # "domain/objective"


class GroupModel(NamedTuple):
    """What differs between the model of a group and that of another."""

    dropped: tuple[str, ...] = ()  # columns that it must not read
    untied: tuple[str, ...] = ()  # parts of which each domain has its own; none: as in the config


Groups = Mapping[tuple[Portfolio, ...], GroupModel]


@dataclasses.dataclass(frozen=True)
class Served:
    """Portfolios served by one or more models: test metrics of each by seed, and the capacity that serving needs."""

    metrics: Mapping[Portfolio, Mapping[str, list[float]]]
    capacity: Capacity


class ConsolidationComparison:
    """Prepares the rows once, and trains the models, each in a separate folder."""

    def __init__(self, config: RunConfig, folder: Path, seeds: Sequence[int]) -> None:
        """Prepares the rows.

        Args:
          config: config of the model that is trained for single portfolios and groups.
          folder: parent folder of all runs and of the rows.
          seeds: seeds to train every model with.

        Raises:
          UserError: the folder holds different rows, or the rows cannot be prepared.
        """
        self.config, self.folder, self.seeds = config, folder, seeds
        rows = prepared_directory(config.data, folder / "data")
        claim_made_folder(folder / "data", to_mapping(config.data), read_from=rows)
        self.data: RunData = open_run_data(config.data, folder / "data", print)
        self.portfolios: PortfolioRows = measure_portfolios(self.data.splits["train"])
        self.names = [portfolio.name for portfolio in self.portfolios.portfolios]

    def compare(self, alone: str, networks: Mapping[str, RunConfig], groups_file: str = "") -> Iterator[dict[str, Any]]:
        """Trains models of single portfolios, networks for all, and models of groups.

        Args:
          alone: name of the model of single portfolios.
          networks: configs by name.
          groups_file: path of a `groups.json`; empty for no groups.

        Yields:
          A row of results for each, when its runs have ended.
        """
        groups = read_groups(load_groups(Path(groups_file)), self.names) if groups_file else {}
        for group, model in groups.items():  # before the first hour of training
            untie(self.config, group, model.untied)
        single = self._serve_groups({(name,): GroupModel() for name in self.names}, "alone")
        yield self._describe(f"{alone} for each portfolio", single, single)
        for name, network in networks.items():
            place = self.folder / "together" / re.sub("[/,]", "_", name)
            own = dataclasses.replace(network, data=network.data.read_blocks(self.data.directory))
            served = read_served({tuple(self.names): train_seeds(own, place, self.seeds)}, self.portfolios)
            yield self._describe(name, served, single)
        if groups:
            yield self._describe(f"{alone} for each group", self._serve_groups(groups, "groups"), single)

    def _describe(self, name: str, served: Served, alone: Served) -> dict[str, Any]:
        return {"variant": name, "seeds": list(self.seeds)} | describe(served, alone)

    def _serve_groups(self, groups: Groups, place: str) -> Served:
        """Trains a model for each group on its rows, without dropped columns, in `<place>/<its portfolios>`."""
        trained = {}
        for group, (dropped, untied) in groups.items():
            folder = self.folder / place / re.sub(r"[^\w.-]+", "_", "+".join(group))
            made_of = {"portfolios": group, "dropped_columns": dropped}
            claim_made_folder(folder / "rows", made_of, {"data": self.data})
            write = functools.partial(write_group_rows, self.data, group, dropped, folder / "rows")
            write_once(folder / "rows", write)
            rows_config = self.config.data.read_blocks(folder / "rows")
            rows = open_run_data(rows_config, folder, print).splits["train"].rows
            own = stretch_schedule(self.config, rows / self.data.splits["train"].rows)
            own = dataclasses.replace(own, name=f"{self.config.name}: {', '.join(group)}", data=rows_config)
            own = untie(own, group, untied)
            with accept_idle_options():  # options of several domains have no effect in a group of one domain
                trained[group] = train_seeds(own, folder, self.seeds)
        return read_served(trained, self.portfolios)


def untie(config: RunConfig, group: Sequence[Portfolio], parts: Sequence[str]) -> RunConfig:
    """Returns the config with the parts untied that a group asks for; the same if it asks for none.

    Raises:
      UserError: the model has no untied weights, or not these.
    """
    if not parts:
        return config
    if config.model.factory != _CAN_UNTIE:
        raise UserError(
            f"--groups: {', '.join(group)} is to have its own {', '.join(parts)} in each domain, which "
            f"{config.model.factory} does not; give a variant of {_CAN_UNTIE} as --alone, or remove `untied`"
        )
    options = dict(config.model.options) | {"untied": tuple(parts)}
    build_dataclass(LatticeOptions, options, "config.model.options")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, options=options))


def read_groups(described: Sequence[Mapping[str, Any]], names: Sequence[Portfolio]) -> Groups:
    """Returns what the model of each group is to be like, by group.

    Raises:
      UserError: the groups do not contain each portfolio of the data exactly once.
    """
    held = [name for group in described for name in group["portfolios"]]
    for name in (*names, *held):
        if held.count(name) != 1 or name not in names:
            times = f"in {held.count(name)} groups" if name in names else "not of this data"
            raise UserError(f"--groups: {name} is {times}; give groups that hold each portfolio of the data once")
    return {
        tuple(group["portfolios"]): GroupModel(tuple(group["dropped_columns"]), tuple(group["untied"]))
        for group in described
    }


def read_served(
    trained: Mapping[tuple[Portfolio, ...], Mapping[int, Mapping[str, Any]]], portfolios: PortfolioRows
) -> Served:
    """Collects metrics and capacity of the groups' models from the summaries of their seeds."""
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


def describe(served: Served, alone: Served) -> dict[str, Any]:
    """Returns a row of results: metrics and comparison of each portfolio, their means, and the capacity saved.

    The mean difference is over the portfolios whose NE is defined, `compared_portfolios` of them; that of a portfolio
    whose test labels are of one class is not.
    """
    losses, own = ({name: metrics[LOSS] for name, metrics in one.metrics.items()} for one in (served, alone))
    compared = compare_portfolios(own, losses)
    flops, embeddings = served.capacity.saving_from(alone.capacity)
    row: dict[str, Any] = dataclasses.asdict(served.capacity)
    row |= {"flops_saved": flops, "embeddings_saved": embeddings}
    undefined = [one for one in compared if math.isnan(one.difference) and not one.worse]
    counted = [one.difference for one in compared if one not in undefined]
    row["mean_difference"] = sum(counted) / len(counted) if counted else math.nan
    row["compared_portfolios"] = len(counted)
    for one in compared:
        facts = dataclasses.asdict(one)
        del facts["portfolio"]
        row |= {f"{one.portfolio}/{key}": value for key, value in facts.items()}
        row |= {f"{one.portfolio}/{key}": value for key, value in served.metrics[one.portfolio].items()}
    return row


def _find_prefix(metrics: Mapping[str, float], portfolio: Portfolio) -> str:
    """Returns the prefix of a portfolio's metrics in a summary, which omits the only domain or the only objective."""
    domain, _, objective = portfolio.rpartition("/")
    candidates = (f"{domain}/{objective}/", f"{objective}/", "")
    for name in candidates:
        if f"{name}{LOSS}" in metrics:
            return name
    raise UserError(f"portfolio {portfolio}: has no test rows to be compared on; leave it out of the data")
