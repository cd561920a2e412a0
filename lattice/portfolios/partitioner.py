"""Lattice Partitioner: groups portfolios by affinity, one model per group, under a compute budget and hard rules.

Greedy agglomeration: every portfolio starts as a group. The allowed pair of groups with the highest mean affinity is
merged, as long as this affinity is positive or the models of all groups cost more than the budget. If merging ends
above the budget because rules forbid further merges, it starts again and, while above the budget, merges only pairs
that save compute. The paper (arXiv 2512.09200, section 3.1) gives criteria but no algorithm; this one is our choice.

A model runs on every row of each of its domains, once for all objectives of that domain. Merging therefore saves
compute where two models would run on the same rows, and memory where several models would hold the same tables.

A budget may be one number for all groups together, or be shared: then each portfolio brings its share of the budget by
weight (such as its revenue), a group has the sum of its portfolios' shares, and groups that cost more than theirs must
merge, with others on the same rows or with some that have budget left.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

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
class Budget:
    """What groups may cost, in model runs per row of traffic."""

    runs: float  # of all groups together, at least 1 (one model for all)
    by_weight: bool = False  # each group is limited to its share by the weights of its portfolios

    def __post_init__(self) -> None:
        """Checks that one model can meet it."""
        if self.runs < 1:
            raise UserError(f"budget = {self.runs:g} model runs a row: at least 1, which is one model for everything")

    def share(self, group: Sequence[int], portfolios: Sequence[Portfolio]) -> float:
        """Returns the model runs per row of traffic that a group's portfolios bring by their weights."""
        total = sum(portfolio.weight for portfolio in portfolios)
        return self.runs * sum(portfolios[i].weight for i in group) / total

    def find_excess(
        self, groups: Sequence[tuple[int, ...]], portfolios: Sequence[Portfolio], domain_rows: Mapping[str, int]
    ) -> float:
        """Returns the model runs per row beyond the budget: of all groups, or the sum over groups beyond their own."""
        if self.by_weight:
            costs = [compute_cost([group], portfolios, domain_rows) for group in groups]
            excess = [cost - self.share(group, portfolios) for group, cost in zip(groups, costs, strict=True)]
        else:
            excess = [compute_cost(groups, portfolios, domain_rows) - self.runs]
        return sum(one for one in excess if one > _SLACK)


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
    budget: Budget | None = None,
    rules: Collection[Rule] = (),
) -> Grouping:
    """Groups portfolios.

    Args:
      portfolios: P portfolios.
      affinity: [P, P].
      domain_rows: number of rows of each domain, its traffic.
      budget: what the groups may cost; None: no limit.
      rules: pairs that must not be in one group; rules about feature columns are ignored here.

    Returns:
      The grouping; among equal affinities, the earlier groups are merged first.

    Raises:
      UserError: neither order of merging meets the budget, or it is shared by weights of which none is above 0.
    """
    if budget is not None and budget.by_weight and not any(portfolio.weight for portfolio in portfolios):
        raise UserError(
            "budget_by_weight: all weights are 0, so that no portfolio has a share; give one a weight above 0"
        )
    forbidden = _find_forbidden(portfolios, rules)
    ended = []
    for saving_first in (False, True) if budget is not None else (False,):
        grouping = _merge(portfolios, affinity, domain_rows, budget, forbidden, saving_first)
        excess = 0.0 if budget is None else budget.find_excess(grouping.groups, portfolios, domain_rows)
        if budget is None or not excess:
            return grouping
        ended.append((excess, grouping))
    excess, best = min(ended, key=lambda pair: pair[0])
    assert budget is not None
    shared = f", {excess:.3g} beyond the groups' shares" if budget.by_weight else ""
    raise UserError(
        f"budget = {budget.runs:g} model runs a row: under the rules merging ended at {len(best.groups)} models and "
        f"{best.cost:.3g} runs a row{shared}; raise the budget or lift a rule"
    )


def _merge(
    portfolios: Sequence[Portfolio],
    affinity: np.ndarray,
    domain_rows: Mapping[str, int],
    budget: Budget | None,
    forbidden: np.ndarray,
    saving_first: bool,
) -> Grouping:
    """Runs the agglomeration; with `saving_first`, only pairs that save compute are merged above the budget."""
    weights = np.array([p.weight for p in portfolios])
    groups: list[tuple[int, ...]] = [(index,) for index in range(len(portfolios))]
    merges: list[Merge] = []
    while True:
        excess = 0.0 if budget is None else budget.find_excess(groups, portfolios, domain_rows)
        saves = None
        if budget is not None and excess:
            saves = functools.partial(_saves, groups, portfolios, domain_rows, budget, excess)
        pair = _find_best_pair(groups, affinity, weights, forbidden, saves, saving_first)
        if pair is None or (pair[2] <= 0 and not excess):
            return Grouping(tuple(groups), tuple(merges), compute_cost(groups, portfolios, domain_rows))
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
    saves: Callable[[int, int], bool] | None,
    saving_first: bool,
) -> tuple[int, int, float] | None:
    """Finds the allowed pair of groups with the highest mean affinity, weighted by the portfolios' weights.

    While the groups exceed the budget, `saves` tells which pairs bring them nearer to it. Other pairs are merged then
    only if their affinity is positive, and with `saving_first` not at all.
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
            useful = saves is None or (value > 0 and not saving_first) or saves(first, second)
            if useful and (best is None or value > best[2]):
                best = (first, second, value)
    return best


def _saves(
    groups: Sequence[tuple[int, ...]],
    portfolios: Sequence[Portfolio],
    domain_rows: Mapping[str, int],
    budget: Budget,
    excess: float,
    first: int,
    second: int,
) -> bool:
    """Whether the groups are nearer to the budget when two of them are merged."""
    others = [group for place, group in enumerate(groups) if place not in (first, second)]
    merged = groups[first] + groups[second]
    return budget.find_excess([*others, merged], portfolios, domain_rows) < excess - _SLACK
