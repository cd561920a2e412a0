"""Tower partitioner (TP, paper 3.3): groups feature columns into towers by the embeddings of a trained flat model.

    embeddings of a trained model -> affinity [F, F] -> distances -> positions -> balanced k-means -> towers

Where the paper leaves a choice open, or its literal reading fails, we chose as follows. On planted clicks with known
groups (16 fields, 4 groups, a Wukong of width 16, three data sets), these choices recovered the groups exactly from
every seed tried; without any one of them some groups were missed.

- The affinity of two columns is based on |cosine| of their embeddings and a mean over a batch. The paper does not say
  which comes first. "abs_of_mean", the literal reading of its formulas, found no group: if the values of two columns
  are independent, the mean cosine is the product of two mean directions and does not depend on how the columns
  interact. "mean_of_abs", the default, measures whether their embeddings share directions.
- Affinities are stretched to the range 0 to 1, since only the order of distances matters. A mean of |cosine| is never
  near 0 (about sqrt(2 / (pi D)) for unrelated columns), and almost equal distances do not separate groups.
- The layout has 8 dimensions by default, or T - 1 if that is more. T groups at equal distances need at least T - 1
  dimensions, and a few more avoid poor minima. With the paper's 2, some columns landed in the wrong group.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmt.partition.balanced_kmeans import SizeLimits, cluster_balanced
from wukong_jax.ranges import Above, AtLeast, check_ranges

Strategy = Literal["coherent", "diverse"]
AffinityOrder = Literal["mean_of_abs", "abs_of_mean"]


class AffinitySums(NamedTuple):
    """Sums over the rows of a batch; sums of several batches can be added."""

    cosines: jax.Array  # [F, F] float32, sums of cosines
    absolute: jax.Array  # [F, F] float32, sums of |cosine|
    pairs: jax.Array  # [F, F] float32, number of rows in which both columns have an embedding
    present: jax.Array  # [F] float32, number of rows in which the column has one


@dataclasses.dataclass(frozen=True)
class PartitionOptions:
    """Settings of the partitioner."""

    towers: Annotated[int, AtLeast(1)]  # T
    strategy: Strategy = "coherent"  # put similar ("coherent") or different ("diverse") columns in a tower
    # of the layout; None: 8, or T - 1 if that is more (the paper: 2)
    dimensions: Annotated[int | None, AtLeast(1)] = None
    steps: Annotated[int, AtLeast(1)] = 2000  # Adam steps of the layout
    learning_rate: Annotated[float, Above(0)] = 0.05  # of Adam
    layouts: Annotated[int, AtLeast(1)] = 8  # random starts of the layout; the one with the least stress is kept
    restarts: Annotated[int, AtLeast(1)] = 32  # of k-means; the one with the least inertia is kept
    seed: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        check_ranges(self)

    @property
    def layout_dimensions(self) -> int:
        """Dimensions of the layout."""
        return max(8, self.towers - 1) if self.dimensions is None else self.dimensions


@dataclasses.dataclass(frozen=True)
class Partition:
    """A grouping of columns into towers."""

    towers: tuple[tuple[int, ...], ...]  # columns of each tower, ascending; towers ordered by their first column
    positions: np.ndarray  # [F, dimensions] float64, the layout
    plane: np.ndarray  # [F, 2] float64, a layout of the same distances in two dimensions, for the picture
    stress: float  # of the layout
    inertia: float  # sum of squared distances to the tower centres


@jax.jit
def compute_affinity_sums(embeddings: jax.Array, weight: jax.Array) -> AffinitySums:
    """Sums the cosines of every pair of columns over the rows.

    Args:
      embeddings: [B, F, D] float32. Zeros mean that a column has no embedding in a row; its pairs skip the row.
      weight: [B] float32; rows of weight 0 are padding, all others count equally.

    Returns:
      The sums.
    """
    embeddings = jnp.where((weight > 0)[:, None, None], embeddings, 0)
    norms = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    present = (norms[..., 0] > 0).astype(jnp.float32)
    directions = jnp.swapaxes(embeddings / jnp.where(norms > 0, norms, 1), 0, 1)  # [F, B, D]

    def pair_one(column: jax.Array) -> tuple[jax.Array, jax.Array]:
        # One column at a time needs memory for [F, B], not [F, F, B].
        cosines = jnp.sum(directions * column, axis=-1)
        return cosines.sum(axis=1), jnp.abs(cosines).sum(axis=1)

    cosines, absolute = jax.lax.map(pair_one, directions)
    return AffinitySums(cosines, absolute, present.T @ present, present.sum(axis=0))


def compute_affinity(sums: AffinitySums, order: AffinityOrder = "mean_of_abs") -> np.ndarray:
    """Returns the affinity I of every pair of columns.

    Args:
      sums: sums over all rows.
      order: whether the mean or the absolute value comes first; see the module docstring.

    Returns:
      [F, F] float64 from 0 to 1, symmetric, 1 on the diagonal; 0 for columns that never occur in the same row.
    """
    pairs = np.maximum(np.asarray(sums.pairs, np.float64), 1)
    total = sums.absolute if order == "mean_of_abs" else np.abs(np.asarray(sums.cosines, np.float64))
    affinity = np.asarray(total, np.float64) / pairs
    affinity = np.clip((affinity + affinity.T) / 2, 0, 1)
    np.fill_diagonal(affinity, 1)
    return affinity


def compute_distances(affinity: np.ndarray, strategy: Strategy) -> np.ndarray:
    """Turns affinities into target distances for the layout.

    Args:
      affinity: [F, F] from 0 to 1.
      strategy: "coherent" gives 1 - I, "diverse" gives I.

    Returns:
      [F, F] float64 from affinities stretched to the range 0 to 1; 0 on the diagonal.
    """
    others = ~np.eye(len(affinity), dtype=bool)
    if not others.any():
        return np.zeros_like(affinity)
    low, high = affinity[others].min(), affinity[others].max()
    stretched = (affinity - low) / (high - low) if high > low else np.full_like(affinity, 0.5)
    distances = 1 - stretched if strategy == "coherent" else stretched
    return np.where(others, distances, 0)


def compute_stress(positions: jax.Array, distances: jax.Array) -> jax.Array:
    """Returns the stress, the sum over i < j of (||X_i - X_j|| - D_ij)^2 (paper 3.3).

    Args:
      positions: X, [F, n].
      distances: D, [F, F].

    Returns:
      A float32 scalar.
    """
    first, second = np.triu_indices(len(distances), k=1)
    squares = jnp.sum((positions[first] - positions[second]) ** 2, axis=-1)
    # Equal positions have no direction between them: their gradient is set to 0, not the square root's infinity.
    apart = squares > 1e-12
    lengths = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
    return jnp.sum((lengths - distances[first, second]) ** 2)


def lay_out(distances: np.ndarray, dimensions: int, options: PartitionOptions) -> tuple[np.ndarray, float]:
    """Finds positions of the columns whose distances approximate the target distances.

    Args:
      distances: [F, F] target distances.
      dimensions: n, dimensions of the positions.
      options: steps, learning rate, layouts and seed are read.

    Returns:
      ([F, n] float64 positions, their stress), the best of `layouts` random starts.
    """
    starts = np.random.default_rng(options.seed).normal(0, 0.1, (options.layouts, len(distances), dimensions))
    positions, stresses = _minimise_stress(
        jnp.asarray(starts, jnp.float32),
        jnp.asarray(distances, jnp.float32),
        jnp.asarray(options.steps, jnp.int32),
        jnp.asarray(options.learning_rate, jnp.float32),
    )
    best = int(np.argmin(stresses))
    return np.asarray(positions[best], np.float64), float(stresses[best])


@jax.jit
def _minimise_stress(
    starts: jax.Array, distances: jax.Array, steps: jax.Array, learning_rate: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Runs Adam with cosine decay from every start [R, F, n]; returns final positions and their stress [R]."""
    adam = optax.scale_by_adam()

    def descend(start: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(index: jax.Array, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
            positions, state = carry
            direction, state = adam.update(jax.grad(compute_stress)(positions, distances), state)
            rate = learning_rate * (1 + jnp.cos(jnp.pi * index / steps)) / 2
            return positions - rate * direction, state

        positions, _ = jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))
        return positions, compute_stress(positions, distances)

    return jax.vmap(descend)(starts)


def partition_columns(
    affinity: np.ndarray,
    options: PartitionOptions,
    *,
    limits: SizeLimits | None = None,
    keep_together: Sequence[Sequence[int]] = (),
) -> Partition:
    """Groups columns into towers.

    Args:
      affinity: [F, F] from 0 to 1.
      options: settings of the partitioner.
      limits: weights of the columns and bounds on their sum in a tower; None: the same number of columns in each tower,
        to within one (paper 3.3 with ratio 1, as close as F / T allows).
      keep_together: groups of columns that must share a tower, such as the columns of one table.

    Returns:
      The partition; deterministic given the arguments.

    Raises:
      UserError: more towers than can be filled, or no grouping meets the bounds.
    """
    distances = compute_distances(affinity, options.strategy)
    positions, stress = lay_out(distances, options.layout_dimensions, options)
    plane = positions if positions.shape[1] == 2 else lay_out(distances, 2, options)[0]
    clusters, inertia = cluster_balanced(
        positions, options.towers, limits, keep_together, restarts=options.restarts, seed=options.seed
    )
    towers = [tuple(np.flatnonzero(clusters == tower).tolist()) for tower in range(options.towers)]
    return Partition(tuple(sorted(towers)), positions, plane, stress, inertia)


def compute_contrast(affinity: np.ndarray, towers: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Returns the mean affinity of column pairs within towers and between towers; NaN if there is no such pair."""
    tower_of = np.empty(len(affinity), int)
    for tower, columns in enumerate(towers):
        tower_of[list(columns)] = tower
    first, second = np.triu_indices(len(affinity), k=1)
    together = tower_of[first] == tower_of[second]
    values = affinity[first, second]

    def mean(part: np.ndarray) -> float:
        return float(part.mean()) if part.size else float("nan")

    return mean(values[together]), mean(values[~together])


def compute_agreement(labels: Sequence[int], others: Sequence[int]) -> float:
    """Returns the adjusted Rand index of two groupings: 1 if they are equal, 0 on average if unrelated.

    Args:
      labels: [F] group of each column.
      others: [F] group of each column in the other grouping.
    """
    table = np.zeros((max(labels) + 1, max(others) + 1))
    np.add.at(table, (np.asarray(labels), np.asarray(others)), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, first, second = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    every = len(labels) * (len(labels) - 1) / 2
    expected, largest = first * second / max(every, 1), (first + second) / 2
    return 1.0 if largest == expected else (both - expected) / (largest - expected)
