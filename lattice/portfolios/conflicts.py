"""Conflict inside groups: splits a group, or unties weights, where gradients point in opposite directions.

The cosine of two sets of portfolios is the mean over pairs of one from each, weighted by the portfolios' weights. To
split a group, its portfolios are joined again, always the two parts with the largest cosine, until two parts are left.
If their cosine is below `split_below`, they become two groups, which are looked at in the same way, unless the groups
would then exceed the budget. In a group that is left, weights of which each domain has its own copy help where domains
conflict: if the smallest cosine of two domains is below `untie_below`, the group's network is to have untied parts. The
paper (arXiv 2512.09200) is only reported to do one or the other; thresholds, cosine and order are our choice.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from lattice.portfolios.group_rules import ConflictRules
from lattice.portfolios.partitioner import Budget, Grouping, compute_cost
from lattice.portfolios.portfolios import Portfolio, PortfolioRows

Group = tuple[int, ...]  # portfolios, ascending


@dataclasses.dataclass(frozen=True)
class Conflict:
    """What was measured in a group, and what was decided."""

    first: Group  # the two parts of the group that disagree most
    second: Group
    cosine: float
    threshold: float
    decision: str  # "split", "not split: over the budget", "untied", or "kept" above the threshold


@dataclasses.dataclass(frozen=True)
class Resolved:
    """Groups after conflicts were looked at."""

    grouping: Grouping
    conflicts: tuple[Conflict, ...]
    untied: dict[Group, tuple[str, ...]]  # parts to untie, by group; groups without an entry need none


def resolve_conflicts(
    grouping: Grouping, rows: PortfolioRows, cosine: np.ndarray, rules: ConflictRules, budget: Budget | None
) -> Resolved:
    """Splits groups and names weights to untie.

    Args:
      grouping: the groups.
      rows: P portfolios.
      cosine: [P, P] cosines of gradients.
      rules: thresholds.
      budget: what the groups may cost; None: no limit.

    Returns:
      The groups and the decisions, in the order in which they were made.
    """
    portfolios, traffic = rows.portfolios, rows.traffic
    waiting, done = list(grouping.groups), list[Group]()
    conflicts = []
    while waiting:
        group = waiting.pop(0)
        split = None if rules.split_below is None else find_split(group, portfolios, cosine)
        if split is None or rules.split_below is None:
            done.append(group)
            continue
        first, second, value = split
        decision = "kept" if value >= rules.split_below else "split"
        after = [*done, *waiting, first, second]
        if decision == "split" and budget is not None and budget.find_excess(after, portfolios, traffic) > 0:
            decision = "not split: over the budget"
        conflicts.append(Conflict(first, second, value, rules.split_below, decision))
        if decision == "split":
            waiting = [first, second, *waiting]
        else:
            done.append(group)
    groups = tuple(sorted(done))
    untied: dict[Group, tuple[str, ...]] = {}
    for group in groups if rules.untie_below is not None else ():
        pair = find_opposed_domains(group, portfolios, cosine)
        if pair is None or rules.untie_below is None:
            continue
        below = pair[2] < rules.untie_below
        conflicts.append(Conflict(*pair, rules.untie_below, "untied" if below else "kept"))
        if below:
            untied[group] = tuple(rules.untie)
    cost = compute_cost(groups, portfolios, traffic)
    return Resolved(Grouping(groups, grouping.merges, cost), tuple(conflicts), untied)


def find_split(group: Group, portfolios: Sequence[Portfolio], cosine: np.ndarray) -> tuple[Group, Group, float] | None:
    """Returns the two parts in which a group falls, and their cosine; None for a group of one.

    Among equal cosines, the parts with the earlier portfolios are joined first.
    """
    parts: list[Group] = [(portfolio,) for portfolio in group]
    while len(parts) > 2:
        pairs = itertools.combinations(range(len(parts)), 2)
        one, other = max(pairs, key=lambda pair: compute_cosine(parts[pair[0]], parts[pair[1]], portfolios, cosine))
        joined = tuple(sorted(parts[one] + parts[other]))
        parts = sorted([part for place, part in enumerate(parts) if place not in (one, other)] + [joined])
    return (parts[0], parts[1], compute_cosine(parts[0], parts[1], portfolios, cosine)) if len(parts) == 2 else None


def find_opposed_domains(
    group: Group, portfolios: Sequence[Portfolio], cosine: np.ndarray
) -> tuple[Group, Group, float] | None:
    """Returns the portfolios of the two domains of a group with the smallest cosine, and it; None for one domain."""
    names = list(dict.fromkeys(portfolios[i].domain for i in group))
    domains = [tuple(i for i in group if portfolios[i].domain == name) for name in names]
    pairs = [
        (one, other, compute_cosine(one, other, portfolios, cosine))
        for one, other in itertools.combinations(domains, 2)
    ]
    return min(pairs, key=lambda pair: pair[2], default=None)


def compute_cosine(first: Group, second: Group, portfolios: Sequence[Portfolio], cosine: np.ndarray) -> float:
    """Returns the mean cosine over pairs of one portfolio from each part, by the product of their weights."""
    weights = [np.array([portfolios[i].weight for i in part]) for part in (first, second)]
    mass = np.outer(*weights) if all(own.any() for own in weights) else np.ones((len(first), len(second)))
    return float((cosine[np.ix_(first, second)] * mass).sum() / mass.sum())
