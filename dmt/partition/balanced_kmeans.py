"""Balanced k-means: clusters of equal or bounded size (Bradley, Bennett and Demiriz 2000).

The assignment step is solved exactly. If all clusters must have the same number of points, to within one, it is an
assignment problem over *slots*: each cluster has floor(F / T) slots that must be filled, and one more that may be. With
bounds on weight, or points that must stay together, it is a small integer program (HiGHS). The bounds then hold
exactly; the search stops after a fixed number of nodes, so that the same input always gives the same result.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linear_sum_assignment, milp

from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast, check_ranges

_ITERATIONS = 100  # of Lloyd's method; far more than tens of points need
_NODES = 2000  # limit on the search tree of the integer program
_GAP = 1e-3  # relative gap to the optimum at which the integer program may stop


@dataclasses.dataclass(frozen=True)
class SizeLimits:
    """Bounds on weight: each cluster weighs at most (1 + tolerance) times the mean, and none is empty."""

    what: str  # unit of the weights, for messages: "bytes"
    weights: tuple[float, ...]  # weight of each point
    tolerance: Annotated[float, AtLeast(0)] = 0.1

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_ranges(self)
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise UserError(f"{self.what}: each at least 0 and their sum above 0")


@dataclasses.dataclass(frozen=True)
class _Units:
    """Groups of points that stay together (units), and the bounds on the weight of a cluster."""

    members: np.ndarray  # [units, points] float64, 1 where the unit holds the point
    weights: np.ndarray  # [units]
    low: float  # least weight of a cluster
    high: float  # largest weight of a cluster
    alike: bool  # every unit is one point, and clusters are balanced by count

    @property
    def count(self) -> int:
        return len(self.members)


def cluster_balanced(
    points: np.ndarray,
    clusters: int,
    limits: SizeLimits | None = None,
    keep_together: Sequence[Sequence[int]] = (),
    *,
    restarts: int = 32,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Runs balanced k-means from several k-means++ seedings and keeps the result of least inertia.

    Args:
      points: [F, n] float64.
      clusters: number of clusters, T.
      limits: bounds on weight; None: each cluster has floor(F / T) to ceil(F / T) points.
      keep_together: groups of points that must share a cluster; overlapping groups are merged.
      restarts: number of seedings.
      seed: random seed of the seedings.

    Returns:
      ([F] int64 cluster of each point, the inertia: sum of squared distances to the cluster means).

    Raises:
      UserError: fewer points (or groups) than clusters, or no clustering meets the bounds.
    """
    units = _bind_units(len(points), clusters, limits, keep_together)
    fallback = _find_feasible(units, clusters, limits)
    generator = np.random.default_rng(seed)
    best, best_inertia = np.zeros(len(points), np.int64), np.inf
    for _ in range(restarts):
        labels, inertia = _run_lloyd(points, _seed_centres(points, clusters, generator), units, fallback)
        if inertia < best_inertia - 1e-12:
            best, best_inertia = labels, inertia
    return best, best_inertia


def _run_lloyd(
    points: np.ndarray, centres: np.ndarray, units: _Units, fallback: np.ndarray
) -> tuple[np.ndarray, float]:
    """Alternates assignment and averaging until the inertia stops falling; returns ([F] labels, inertia)."""
    labels, inertia = np.zeros(len(points), np.int64), np.inf
    for _ in range(_ITERATIONS):
        costs = units.members @ ((points[:, None] - centres[None]) ** 2).sum(axis=-1)
        assigned = _assign(costs, units)
        if assigned is None:  # the node limit was reached before any solution was found
            assigned = fallback
        moved = (units.members.T @ np.eye(len(centres))[assigned]).argmax(axis=1)
        centres = np.stack([points[moved == cluster].mean(axis=0) for cluster in range(len(centres))])
        reached = float(((points - centres[moved]) ** 2).sum())
        if reached >= inertia - 1e-12:
            break
        labels, inertia = moved, reached
    return labels, inertia


def _seed_centres(points: np.ndarray, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """Draws [T, n] centres by k-means++: points with probability by squared distance to the nearest chosen centre."""
    chosen = [int(generator.integers(len(points)))]
    while len(chosen) < clusters:
        distances = ((points[:, None] - points[chosen][None]) ** 2).sum(axis=-1).min(axis=1)
        distances[chosen] = 0
        left = np.ones(len(points))
        left[chosen] = 0
        mass = distances if distances.sum() > 0 else left
        chosen.append(int(generator.choice(len(points), p=mass / mass.sum())))
    return points[chosen]


def _bind_units(
    points: int, clusters: int, limits: SizeLimits | None, keep_together: Sequence[Sequence[int]]
) -> _Units:
    """Merges points that must stay together into units, with their weights and the bounds of a cluster."""
    owner = np.arange(points)
    for group in keep_together:
        for point in group[1:]:
            owner[owner == owner[point]] = owner[group[0]]
    members = (owner[None] == np.unique(owner)[:, None]).astype(np.float64)
    if limits is None:
        sizes = members.sum(axis=1)
        return _Units(members, sizes, points // clusters, -(-points // clusters), alike=len(members) == points)
    weights = members @ np.asarray(limits.weights, np.float64)
    return _Units(members, weights, 0, (1 + limits.tolerance) * weights.sum() / clusters, alike=False)


def _find_feasible(units: _Units, clusters: int, limits: SizeLimits | None) -> np.ndarray:
    """Returns some assignment [units] within the bounds; raises a UserError if none was found."""
    what = limits.what if limits else "columns"
    if units.count < clusters:
        raise UserError(
            f"towers = {clusters}: at most {units.count}, the number of columns (or groups that share a table)"
        )
    solved = _assign(np.zeros((units.count, clusters)), units)
    if solved is not None:
        return solved
    packed = _pack_heaviest_first(units, clusters)
    loads = np.bincount(packed, units.weights, clusters)
    if units.low <= loads.min() and loads.max() <= units.high:
        return packed
    mean, largest, evenest = units.weights.sum() / clusters, units.weights.max(), loads.max()
    if limits is None:
        raise UserError(
            f"towers = {clusters}: columns that share a table stay together (the largest group has {largest:.0f}), so "
            f"towers of {units.low:.0f} to {units.high:.0f} columns cannot be made; change the number of towers, or "
            "balance by bytes or ids"
        )
    raise UserError(
        f"tolerance = {limits.tolerance:g}: allows {_show(units.high)} {what} per tower ({clusters} towers, mean "
        f"{_show(mean)}), but the most even towers found need {_show(evenest)} (the largest table or column alone: "
        f"{_show(largest)}); "
        f"give tolerance {math.ceil(100 * (evenest / mean - 1)) / 100:.2f}, fewer towers, or balance by count"
    )


def _assign(costs: np.ndarray, units: _Units) -> np.ndarray | None:
    """Returns the cheapest assignment of units to clusters within the bounds.

    Args:
      costs: [units, T].
      units: weights and bounds.

    Returns:
      [units] int64; None if no assignment exists or none was found.
    """
    clusters = costs.shape[1]
    if units.alike:
        return _assign_slots(costs, int(units.low), int(units.high))
    scale = max(float(costs.max()), 1e-12)
    result = _solve(units, clusters, costs.ravel() / scale, units.high)
    return None if result.x is None else result.x.reshape(costs.shape).argmax(axis=1)


def _assign_slots(costs: np.ndarray, low: int, high: int) -> np.ndarray:
    """Solves the assignment for [F, T] costs with `low` to `high` points per cluster, `high` at most `low` + 1."""
    count, clusters = costs.shape
    slots = np.repeat(costs, high, axis=1)  # cluster-major: `high` slots each
    optional = np.tile(np.arange(high) >= low, clusters)
    # Dummy points take the optional slots that stay empty; their cost keeps them out of slots that must be filled.
    closed = (count + 1.0) * (float(costs.max()) + 1)
    empty = np.tile(np.where(optional, 0.0, closed), (clusters * high - count, 1))
    rows, columns = linear_sum_assignment(np.concatenate([slots, empty]))
    return columns[np.argsort(rows)][:count] // high


def _solve(units: _Units, clusters: int, costs: np.ndarray, high: float) -> OptimizeResult:
    """Solves the integer program over x[unit, cluster] in {0, 1}: each unit once, no cluster empty, bounded weight."""
    scale = max(units.weights.max(), 1e-300)  # unscaled weights of 1e12 bytes next to 1e3 would trouble the solver
    each = np.kron(np.eye(units.count), np.ones((1, clusters)))
    filled = np.kron(np.ones((1, units.count)), np.eye(clusters))
    weight = np.kron(units.weights[None] / scale, np.eye(clusters))
    constraints = [
        LinearConstraint(each, 1, 1),
        LinearConstraint(filled, 1, np.inf),
        LinearConstraint(weight, units.low / scale, high / scale * (1 + 1e-9)),
    ]
    options = {"node_limit": _NODES, "mip_rel_gap": _GAP}
    return milp(costs, integrality=np.ones(len(costs)), bounds=Bounds(0, 1), constraints=constraints, options=options)


def _pack_heaviest_first(units: _Units, clusters: int) -> np.ndarray:
    """Puts each unit, heaviest first, into the lightest cluster and leaves none empty; returns [units] int64."""
    labels, loads = np.zeros(units.count, np.int64), np.zeros(clusters)
    held = np.zeros(clusters, int)
    for place, unit in enumerate(np.argsort(-units.weights, kind="stable")):
        open_ones = np.arange(clusters)
        if (held == 0).sum() >= units.count - place:
            open_ones = np.flatnonzero(held == 0)
        labels[unit] = open_ones[np.argmin(loads[open_ones])]
        loads[labels[unit]] += units.weights[unit]
        held[labels[unit]] += 1
    return labels


def _show(weight: float) -> str:
    return f"{weight:,.0f}" if weight >= 1000 else f"{weight:.4g}"
