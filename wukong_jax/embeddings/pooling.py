"""Pooling of bags: the vectors of a bag's slots to one, where the rows lie."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.layout import FieldPlacement


def pool_bags(values: jax.Array, length: int, inverse_counts: jax.Array | None) -> jax.Array:
    """Adds up the slots of each bag, or averages them.

    Args:
      values: [B, bags * length, w], zeros where a slot has no id.
      length: slots of a bag.
      inverse_counts: [B, bags] from `invert_counts` for the mean; None for the sum.

    Returns:
      [B, bags, w].
    """
    batch, slots, width = values.shape
    bags = values.reshape(batch, slots // length, length, width).sum(axis=2)
    return bags if inverse_counts is None else bags * inverse_counts[..., None]


def invert_counts(ids: jax.Array, length: int) -> jax.Array:
    """What the mean multiplies a bag's sum by.

    Args:
      ids: [B, bags * length] int32, -1 = no id; ids beyond their table count as present.
      length: slots of a bag.

    Returns:
      [B, bags] float32: one over the number of ids, 1 for an empty bag.
    """
    present = (ids >= 0).reshape(ids.shape[0], -1, length)
    return 1 / jnp.maximum(present.sum(axis=2), 1).astype(jnp.float32)


def pool_fields(fields: Sequence[FieldPlacement], values: jax.Array, ids: jax.Array) -> jax.Array:
    """Pools the slots of neighbouring columns of one stack, each as its column says.

    Args:
      fields: the columns, in the order of the slots.
      values: [B, S_stack, w].
      ids: [B, S] int32, of all columns.

    Returns:
      [B, vectors of the fields, w]; the values themselves where nothing is pooled.
    """
    if not any(field.pools for field in fields):
        return values
    runs = [list(run) for _, run in itertools.groupby(fields, lambda field: (field.length, field.pools, field.pooling))]
    sizes = [sum(field.length for field in run) for run in runs]
    pooled = []
    # Splitting, not slicing: its gradient is one concatenation.
    for run, piece in zip(runs, jax.lax.split(values, sizes, axis=1), strict=True):
        first = run[0]
        if first.pools:
            own = jnp.concatenate([ids[:, slice(*field.slots)] for field in run], axis=1)
            counts = invert_counts(own, first.length) if first.pooling == "mean" else None
            piece = pool_bags(piece, first.length, counts)
        pooled.append(piece)
    return jnp.concatenate(pooled, axis=1)
