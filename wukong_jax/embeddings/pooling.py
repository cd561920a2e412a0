"""Pools the vectors of a bag's slots to one vector, by sum or mean."""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.flat_bags import BagRows
from wukong_jax.embeddings.layout import FieldPlacement


def pool_bags(values: jax.Array, length: int, inverse_counts: jax.Array | None) -> jax.Array:
    """Sums or averages the slots of each bag.

    Args:
      values: [B, bags * length, w], zeros for slots without an id.
      length: slots per bag.
      inverse_counts: [B, bags] result of `invert_counts` for the mean, or None for the sum.

    Returns:
      [B, bags, w].
    """
    batch, slots, width = values.shape
    bags = values if length == 1 else values.reshape(batch, slots // length, length, width).sum(axis=2)
    return bags if inverse_counts is None else bags * inverse_counts[..., None]


def invert_counts(ids: jax.Array, length: int) -> jax.Array:
    """Computes the factor that turns a bag's sum into its mean.

    Args:
      ids: [B, bags * length] int32, -1 = no id; ids beyond the table are counted, too.
      length: slots per bag.

    Returns:
      [B, bags] float32, 1 / (number of ids), and 1 for an empty bag.
    """
    present = (ids >= 0).reshape(ids.shape[0], -1, length)
    return 1 / jnp.maximum(present.sum(axis=2), 1).astype(jnp.float32)


def pool_fields(fields: Sequence[FieldPlacement], values: jax.Array | BagRows, ids: jax.Array) -> jax.Array:
    """Pools the slots of all columns of one stack, each by its column's pooling.

    Args:
      fields: the columns, in the order of the slots.
      values: [B, S_stack, w]; or sums of the columns that are pooled, and the slots of the others.
      ids: [B, S] int32 ids of all columns.

    Returns:
      [B, vectors of the fields, w]; the unchanged values if nothing is pooled.
    """
    if not isinstance(values, BagRows) and not any(field.pools for field in fields):
        return values
    runs = [list(run) for _, run in itertools.groupby(fields, lambda field: (field.length, field.pools, field.pooling))]
    pooled = []
    for run, piece in zip(runs, _split_runs(runs, values), strict=True):
        first = run[0]
        if first.pools:
            own = jnp.concatenate([ids[:, slice(*field.slots)] for field in run], axis=1)
            counts = invert_counts(own, first.length) if first.pooling == "mean" else None
            piece = pool_bags(piece, 1 if isinstance(values, BagRows) else first.length, counts)
        pooled.append(piece)
    return jnp.concatenate(pooled, axis=1)


def _split_runs(runs: Sequence[Sequence[FieldPlacement]], values: jax.Array | BagRows) -> list[jax.Array]:
    """Splits values by runs of columns. The gradient of a split is one concatenation, unlike that of slicing."""
    sizes = [sum(field.length for field in run) for run in runs]
    if not isinstance(values, BagRows):
        return list(jax.lax.split(values, sizes, axis=1))
    slots = _split(values.slots, [size for size, run in zip(sizes, runs, strict=True) if not run[0].pools])
    sums = _split(values.sums, [len(run) for run in runs if run[0].pools])
    return [next(sums if run[0].pools else slots) for run in runs]


def _split(values: jax.Array, sizes: Sequence[int]) -> Iterator[jax.Array]:
    return iter(jax.lax.split(values, sizes, axis=1) if sizes else ())
