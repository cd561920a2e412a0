"""Lattice Partitioner: groups portfolios by affinity, one model per group, under a compute budget and hard rules.

Greedy agglomeration: every portfolio starts as a group. The allowed pair of groups with the highest mean affinity is
merged, as long as this affinity is positive or the models of all groups cost more than the budget. If merging ends
above the budget because rules forbid further merges, it starts again and, while above the budget, merges only pairs
that save compute. The paper (arXiv 2512.09200, section 3.1) gives criteria but no algorithm; this one is our choice.

A model runs on every row of each of its domains, once for all objectives of that domain. Merging therefore saves
compute where two models would run on the same rows, and memory where several models would hold the same tables.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lattice.portfolios.portfolios import Portfolio
from wukong_jax.errors import UserError

_SLACK = 1e-9  # tolerance of the budget for rounding errors


@dataclasses.dataclass(frozen=True)
class Rule:
    """Two domains, portfolios ("domain/objective") or feature columns that must not be in the same model."""

    first: str
    second: str


@dataclasses.dataclass(frozen=True)
class Merge:
    """One step of the agglomeration."""

    first: tuple[int, ...]  # portfolios of the first group
    second: tuple[int, ...]  # portfolios of the second group
    affinity: float  # mean over pairs of one portfolio from each group
    because: str  # "affinity" or "budget"


@dataclasses.dataclass(frozen=True)
class Grouping:
    """The groups, and the merges that formed them."""

    groups: tuple[tuple[int, ...], ...]  # portfolios of each group, ascending; groups ordered by their first
    merges: tuple[Merge, ...]
    cost: float  # model runs per row of traffic, over all domains


def partition_portfolios(
    portfolios: Sequence[Portfolio],
    affinity: np.ndarray,
    domain_rows: Mapping[str, int],
    budget: float | None = None,
    rules: Collection[Rule] = (),
) -> Grouping:
    """Groups portfolios.

    Args:
      portfolios: P portfolios.
      affinity: [P, P].
      domain_rows: number of rows of each domain, its traffic.
      budget: largest number of model runs per row of traffic, at least 1 (one model for all); None: no limit.
      rules: pairs that must not be in one group; rules about feature columns are ignored here.

    Returns:
      The grouping; among equal affinities, the earlier groups are merged first.

    Raises:
      UserError: the budget is below 1, or neither order of merging meets it.
    """
    if budget is not None and budget < 1:
        raise UserError(f"budget = {budget:g} model runs a row: at least 1, which is one model for everything")
    forbidden = _find_forbidden(portfolios, rules)
    ended = []
    for saving_first in (False, True) if budget is not None else (False,):
        grouping = _merge(portfolios, affinity, domain_rows, budget, forbidden, saving_first)
        if budget is None or grouping.cost <= budget + _SLACK:
            return grouping
        ended.append(grouping)
    best = min(ended, key=lambda grouping: grouping.cost)
    raise UserError(
        f"budget = {budget:g} model runs a row: under the rules merging ended at {len(best.groups)} models and "
        f"{best.cost:.3g} runs a row; raise the budget or lift a rule"
    )


def _merge(
    portfolios: Sequence[Portfolio],
    affinity: np.ndarray,
    domain_rows: Mapping[str, int],
    budget: float | None,
    forbidden: np.ndarray,
    saving_first: bool,
) -> Grouping:
    """Runs the agglomeration; with `saving_first`, only pairs that save compute are merged above the budget."""
    weights = np.array([p.weight for p in portfolios])
    groups: list[tuple[int, ...]] = [(index,) for index in range(len(portfolios))]
    merges: list[Merge] = []
    while True:
        cost = compute_cost(groups, portfolios, domain_rows)
        dear = budget is not None and cost > budget + _SLACK
        pair = _find_best_pair(groups, affinity, weights, forbidden, portfolios, domain_rows, dear, saving_first)
        if pair is None or (pair[2] <= 0 and not dear):
            return Grouping(tuple(groups), tuple(merges), cost)
        first, second, value = pair
        merges.append(Merge(groups[first], groups[second], value, "affinity" if value > 0 else "budget"))
        merged = tuple(sorted(groups[first] + groups[second]))
        groups = sorted([g for i, g in enumerate(groups) if i not in (first, second)] + [merged])


def compute_cost(
    groups: Sequence[tuple[int, ...]], portfolios: Sequence[Portfolio], domain_rows: Mapping[str, int]
) -> float:
    """Returns model runs per row of traffic: each group's model runs on the rows of all its domains."""
    runs = sum(sum(domain_rows[domain] for domain in {portfolios[i].domain for i in group}) for group in groups)
    return runs / sum(domain_rows.values())


def find_dropped_columns(
    group: Sequence[int], portfolios: Sequence[Portfolio], rules: Collection[Rule], columns: Collection[str]
) -> dict[str, str]:
    """Finds the feature columns that a group's model must not read, with reasons.

    A rule about a feature and a domain (or portfolio) drops the feature if the group contains that domain; a rule about
    two features drops the second.

    Args:
      group: portfolios of the group.
      portfolios: all portfolios.
      rules: all rules.
      columns: names of all feature columns.

    Returns:
      Reasons by column name.
    """
    held = {name for i in group for name in (portfolios[i].domain, portfolios[i].name)}
    dropped = {}
    for rule in rules:
        features = [name for name in (rule.first, rule.second) if name in columns]
        others = {rule.first, rule.second} - set(features)
        if len(features) == 2:
            dropped[rule.second] = f"may not meet column {rule.first}"
        elif features and others & held:
            dropped[features[0]] = f"may not meet {next(iter(others))}"
    return dropped


def check_rules(rules: Collection[Rule], portfolios: Sequence[Portfolio], columns: Collection[str]) -> None:
    """Checks that rules name existing things, and that a grouping can satisfy them.

    Raises:
      UserError: a name is unknown, or one part of a rule contains the other.
    """
    known = {name for p in portfolios for name in (p.domain, p.name)} | set(columns)
    for rule in rules:
        for name in (rule.first, rule.second):
            if name not in known:
                raise UserError(
                    f"rule {rule.first} | {rule.second}: {name!r} is no domain, portfolio or feature column"
                )
        if (
            rule.first == rule.second
            or rule.first.rpartition("/")[0] == rule.second
            or rule.second.rpartition("/")[0] == rule.first
        ):
            raise UserError(f"rule {rule.first} | {rule.second}: one is part of the other, they always meet; remove it")


def _find_forbidden(portfolios: Sequence[Portfolio], rules: Collection[Rule]) -> np.ndarray:
    """Returns [P, P] bool: which pairs of portfolios must not be in one group."""
    forbidden = np.zeros((len(portfolios), len(portfolios)), bool)
    for rule in rules:
        first, second = (
            np.array([name in (p.domain, p.name) for p in portfolios]) for name in (rule.first, rule.second)
        )
        forbidden |= first[:, None] & second[None, :]
    return forbidden | forbidden.T


def _find_best_pair(
    groups: Sequence[tuple[int, ...]],
    affinity: np.ndarray,
    weights: np.ndarray,
    forbidden: np.ndarray,
    portfolios: Sequence[Portfolio],
    domain_rows: Mapping[str, int],
    dear: bool,
    saving_first: bool,
) -> tuple[int, int, float] | None:
    """Finds the allowed pair of groups with the highest mean affinity, weighted by the portfolios' weights.

    Merging groups without a common domain saves no model runs. While the cost is above the budget (`dear`), such pairs
    are merged only if their affinity is positive, and with `saving_first` not at all.
    """
    best: tuple[int, int, float] | None = None
    for second in range(len(groups)):
        for first in range(second):
            across = np.ix_(groups[first], groups[second])
            if forbidden[across].any():
                continue
            mass = np.outer(weights[list(groups[first])], weights[list(groups[second])])
            value = (
                float((affinity[across] * mass).sum() / mass.sum()) if mass.sum() else float(affinity[across].mean())
            )
            wanted = not dear or (value > 0 and not saving_first)
            useful = wanted or _saves(groups[first], groups[second], portfolios, domain_rows)
            if useful and (best is None or value > best[2]):
                best = (first, second, value)
    return best


def _saves(
    first: tuple[int, ...],
    second: tuple[int, ...],
    portfolios: Sequence[Portfolio],
    domain_rows: Mapping[str, int],
) -> bool:
    domains = [{portfolios[i].domain for i in group} for group in (first, second)]
    return any(domain_rows[domain] for domain in domains[0] & domains[1])
