"""Merges the gradients of equal rows exactly, so that each distinct row of a batch occurs once.

There are three methods with the same result (`M` is the number of slots):

* With a scratch column, on CPU: every slot writes its position to the scratch entry of its row and reads the entry
  back, so that all slots of a row agree on one of them. This needs no sort and no clearing, because a slot reads only
  what the same step wrote.
* By sorting, on GPUs: slots are sorted by row, and the slots of each row are summed by chunks, see
  `sum_runs`. The order of additions depends only on the ids. Therefore copies of a table on several GPUs stay equal,
  unlike with atomic additions, and a row touched by half the batch is no bottleneck.

* By sorting and adding in place, on TPUs.

On CPU, where scatters write in order, both methods keep a row at its last slot.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.sum_runs import SortedSlots, sum_runs


class MergedRows(NamedTuple):
    """M positions that hold each distinct row once; the other positions hold no row."""

    row_ids: jax.Array  # [M] int32, all different; V or more means no row
    gradients: jax.Array  # [M, w] float32, sum over the row's slots; arbitrary for no row
    scratch: jax.Array | None  # [V] int32, the scratch column after use


def merge_by_scratch(row_ids: jax.Array, gradients: jax.Array, scratch: jax.Array) -> MergedRows:
    """Merges with a scratch column in O(M), independent of V.

    Args:
      row_ids: [M] int32 in [0, V].
      gradients: [M, w] float32.
      scratch: [V] int32 with arbitrary content.

    Returns:
      The merged rows, each at one of its slots.
    """
    slots, table_rows = row_ids.shape[0], scratch.shape[0]
    positions = jnp.arange(slots, dtype=jnp.int32)
    scratch = scratch.at[row_ids].set(positions, mode="drop")
    chosen = scratch.at[row_ids].get(mode="fill", fill_value=slots)
    summed = jnp.zeros_like(gradients).at[chosen].add(gradients, mode="drop")
    return MergedRows(_keep_rows(row_ids, chosen == positions, table_rows), summed, scratch)


def merge_by_sort(row_ids: jax.Array, gradients: jax.Array, table_rows: int) -> MergedRows:
    """Merges by a stable sort; each gradient is read once, see `sum_runs`.

    Args:
      row_ids: [M] int32 in [0, V].
      gradients: [M, w] float32.
      table_rows: V.

    Returns:
      The merged rows, in ascending order of row ids.
    """
    positions = jnp.arange(row_ids.shape[0], dtype=jnp.int32)
    ordered, sources = jax.lax.sort((row_ids, positions), num_keys=1, is_stable=True)
    changes = ordered[1:] != ordered[:-1]
    starts = jnp.concatenate([jnp.ones((1,), bool), changes])
    is_row = ordered < table_rows
    is_last = jnp.concatenate([changes, jnp.ones((1,), bool)]) & is_row
    before = jnp.where(is_row, positions - jax.lax.cummax(jnp.where(starts, positions, 0)), 0)
    summed = sum_runs(gradients, SortedSlots(sources, before, is_last), longest=len(row_ids))
    return MergedRows(_keep_rows(ordered, is_last, table_rows), summed, None)


class PackedRows(NamedTuple):
    """The distinct rows of a batch at the first positions, in ascending order; `n` is M rounded up to whole blocks."""

    row_ids: jax.Array  # [n] int32, all different; V or more means no row
    gradients: jax.Array  # [n, w] float32, sum over the row's slots
    distinct: jax.Array  # int32 scalar, number of distinct rows


def merge_by_addition(row_ids: jax.Array, gradients: jax.Array, table_rows: int, block: int) -> PackedRows:
    """Merges by a stable sort and additions in place, for TPUs, which make these one after the other, in a fixed order.

    XLA:TPU cannot compute sums of gathered rows where they are read, but reads the gradients in sorted order while it
    adds them up.

    Args:
      row_ids: [M] int32 in [0, V].
      gradients: [M, w] float32.
      table_rows: V.
      block: size whose multiple the result has.

    Returns:
      The merged rows.
    """
    slots, width = gradients.shape
    size = -(-slots // block) * block
    positions = jnp.arange(slots, dtype=jnp.int32)
    ordered, sources = jax.lax.sort((row_ids, positions), num_keys=1, is_stable=True)
    starts = jnp.concatenate([jnp.ones((1,), bool), ordered[1:] != ordered[:-1]])
    place = jnp.cumsum(starts.astype(jnp.int32)) - 1
    sums = jnp.zeros((size, width), jnp.float32)
    sums = sums.at[place].add(gradients[sources], mode="promise_in_bounds", indices_are_sorted=True)
    packed = table_rows + jnp.arange(size, dtype=jnp.int32)
    packed = packed.at[jnp.where(starts, place, size + positions)].set(ordered, mode="drop", unique_indices=True)
    return PackedRows(packed, sums, jnp.sum(starts & (ordered < table_rows), dtype=jnp.int32))


def _keep_rows(row_ids: jax.Array, keep: jax.Array, table_rows: int) -> jax.Array:
    """Replaces row ids that are not kept by different ids beyond the table, as unique scatters require."""
    return jnp.where(keep, row_ids, table_rows + jnp.arange(row_ids.shape[0], dtype=jnp.int32))
