"""K-means with clusters of bounded size (Bradley, Bennett and Demiriz 2000): the assignment step is solved exactly.

Clusters of equally many points, to within one, are an assignment problem over the clusters' *slots*: floor(F / T) slots
that must be filled in each cluster, and one more that may be. Clusters bounded by weight, or points that must stay
together, are a small integer programme (HiGHS); its bounds hold exactly, and its search stops after a fixed number of
nodes, so that the same input always gives the same result.
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
_NODES = 2000  # of the integer programme's search tree
_GAP = 1e-3  # relative, within which its optimum may be missed


@dataclasses.dataclass(frozen=True)
class SizeLimits:
    """Balance by weight: no cluster's weight above (1 + tolerance) times the mean, and none empty."""

    what: str  # of the weights, for messages: "bytes"
    weights: tuple[float, ...]  # of each point
    tolerance: Annotated[float, AtLeast(0)] = 0.1

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_ranges(self)
        if min(self.weights) < 0 or sum(self.weights) <= 0:
            raise UserError(f"{self.what}: each at least 0 and their sum above 0")


@dataclasses.dataclass(frozen=True)
class _Units:
    """Points bound together, and what a cluster may hold of them."""

    members: np.ndarray  # [units, points] float64, 1 where the unit holds the point
    weights: np.ndarray  # [units]
    low: float  # of a cluster's weight
    high: float
    alike: bool  # every unit is one point and they are balanced by count

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
    """Balanced k-means: k-means++ seeding, several restarts, the least inertia kept.

    Args:
      points: [F, n] float64.
      clusters: T.
      limits: bounds by weight; None: floor(F / T) to ceil(F / T) points a cluster.
      keep_together: groups of points that share a cluster; groups that overlap are one.
      restarts: of the seeding.
      seed: of the seeding.

    Returns:
      ([F] int64 cluster of each point, the inertia: the sum of squared distances to the clusters' means).

    Raises:
      UserError: fewer units than clusters, or no clustering within the bounds.
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
    """Assigns and averages in turns until nothing moves: ([F] labels, inertia)."""
    labels, inertia = np.zeros(len(points), np.int64), np.inf
    for _ in range(_ITERATIONS):
        costs = units.members @ ((points[:, None] - centres[None]) ** 2).sum(axis=-1)
        assigned = _assign(costs, units)
        if assigned is None:  # the search ran out of nodes before it found any
            assigned = fallback
        moved = (units.members.T @ np.eye(len(centres))[assigned]).argmax(axis=1)
        centres = np.stack([points[moved == cluster].mean(axis=0) for cluster in range(len(centres))])
        reached = float(((points - centres[moved]) ** 2).sum())
        if reached >= inertia - 1e-12:
            break
        labels, inertia = moved, reached
    return labels, inertia


def _seed_centres(points: np.ndarray, clusters: int, generator: np.random.Generator) -> np.ndarray:
    """K-means++: each next centre is a point drawn by its squared distance to the nearest one before, [T, n]."""
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
    """Turns groups into units with their weights and bounds."""
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
    """Some assignment of units to clusters within the bounds, [units]; refuses bounds that cannot be met."""
    what = limits.what if limits else "columns"
    if units.count < clusters:
        raise UserError(
            f"towers = {clusters}: at most {units.count}, the columns (or groups of columns of one table) there are"
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
        f"tolerance = {limits.tolerance:g}: allows {_show(units.high)} {what} a tower ({clusters} towers, mean "
        f"{_show(mean)}), but the most even towers found need {_show(evenest)} (the largest table or column alone: "
        f"{_show(largest)}); "
        f"give tolerance {math.ceil(100 * (evenest / mean - 1)) / 100:.2f}, fewer towers, or balance by count"
    )


def _assign(costs: np.ndarray, units: _Units) -> np.ndarray | None:
    """The cheapest assignment of units to clusters within the bounds.

    Args:
      costs: [units, T].
      units: weights and bounds.

    Returns:
      [units] int64; None where there is none, or none was found.
    """
    clusters = costs.shape[1]
    if units.alike:
        return _assign_slots(costs, int(units.low), int(units.high))
    scale = max(float(costs.max()), 1e-12)
    result = _solve(units, clusters, costs.ravel() / scale, units.high)
    return None if result.x is None else result.x.reshape(costs.shape).argmax(axis=1)


def _assign_slots(costs: np.ndarray, low: int, high: int) -> np.ndarray:
    """Assigns [F, T] costs with `low` to `high` (at most one more) points a cluster, as an assignment problem."""
    count, clusters = costs.shape
    slots = np.repeat(costs, high, axis=1)  # cluster-major: `high` slots each
    optional = np.tile(np.arange(high) >= low, clusters)
    # Rows of their own leave optional slots empty; a slot that must be filled is closed to them.
    closed = (count + 1.0) * (float(costs.max()) + 1)
    empty = np.tile(np.where(optional, 0.0, closed), (clusters * high - count, 1))
    rows, columns = linear_sum_assignment(np.concatenate([slots, empty]))
    return columns[np.argsort(rows)][:count] // high


def _solve(units: _Units, clusters: int, costs: np.ndarray, high: float) -> OptimizeResult:
    """The integer programme over x[unit, cluster] in {0, 1}: each unit once, no cluster empty, weights bounded."""
    scale = max(units.weights.max(), 1e-300)  # weights of 1e12 bytes beside 1e3 would trouble the solver
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
    """The heaviest unit first, each to the lightest cluster, none left empty: [units] int64."""
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
