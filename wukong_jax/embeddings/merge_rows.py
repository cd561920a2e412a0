"""Merging the gradients of equal rows, exactly: each distinct row of a batch is left once.

Two ways with one result (`M` is the number of slots, `U` of distinct rows among them):

* through a scratch column, for CPU: every slot writes its position at its row, reads back what stands there, and
  so all slots of a row agree on one of them, whichever it is. No sort, and nothing to clear: a slot reads only
  what this step wrote.
* by a sort, for other backends: slots sorted by row, summed by a segmented scan. The scan adds in an order that
  the ids alone decide, so the replicas of a table on several GPUs stay equal, which atomic additions would
  not give, and a row that half the batch touches is no bottleneck.

On CPU, where scatters write in order, both leave a row at its last slot.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class MergedRows(NamedTuple):
    """Each distinct row once, among M positions of which the others stand for no row."""

    row_ids: jax.Array  # [M] int32, all different; V or more: no row
    gradients: jax.Array  # [M, w] float32, the sum over the row's slots; arbitrary where there is no row
    sources: jax.Array | None  # [M] int32, a slot of that row; None: the position itself
    scratch: jax.Array | None  # [V] int32, the scratch column after use


def merge_equal_rows(
    row_ids: jax.Array, gradients: jax.Array, table_rows: int, scratch: jax.Array | None
) -> MergedRows:
    """Merges by the scratch column where there is one, by a sort otherwise.

    Args:
      row_ids: [M] int32 in [0, V].
      gradients: [M, w] float32.
      table_rows: V.
      scratch: [V] int32 of any content, or None.

    Returns:
      The merged rows.
    """
    if scratch is None:
        return merge_by_sort(row_ids, gradients, table_rows)
    return merge_by_scratch(row_ids, gradients, scratch)


def merge_by_scratch(row_ids: jax.Array, gradients: jax.Array, scratch: jax.Array) -> MergedRows:
    """Merges through a scratch column, in O(M) whatever V.

    Args:
      row_ids: [M] int32 in [0, V].
      gradients: [M, w] float32.
      scratch: [V] int32 of any content.

    Returns:
      The merged rows, each at one of its own slots.
    """
    slots, table_rows = row_ids.shape[0], scratch.shape[0]
    positions = jnp.arange(slots, dtype=jnp.int32)
    scratch = scratch.at[row_ids].set(positions, mode="drop")
    chosen = scratch.at[row_ids].get(mode="fill", fill_value=slots)
    summed = jnp.zeros_like(gradients).at[chosen].add(gradients, mode="drop")
    return MergedRows(_keep_rows(row_ids, chosen == positions, table_rows), summed, None, scratch)


def merge_by_sort(row_ids: jax.Array, gradients: jax.Array, table_rows: int) -> MergedRows:
    """Merges by a stable sort and a segmented scan, in O(M log M) whatever V.

    Args:
      row_ids: [M] int32 in [0, V].
      gradients: [M, w] float32.
      table_rows: V.

    Returns:
      The merged rows, in ascending order of rows.
    """
    positions = jnp.arange(row_ids.shape[0], dtype=jnp.int32)
    ordered, sources = jax.lax.sort((row_ids, positions), num_keys=1, is_stable=True)
    changes = ordered[1:] != ordered[:-1]
    starts = jnp.concatenate([jnp.ones((1,), bool), changes])
    is_last = jnp.concatenate([changes, jnp.ones((1,), bool)])
    summed, _ = jax.lax.associative_scan(_add_within_segment, (gradients[sources], starts[:, None]))
    return MergedRows(_keep_rows(ordered, is_last & (ordered < table_rows), table_rows), summed, sources, None)


def _add_within_segment(
    left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Adds two neighbouring runs; a flag says that a run holds the start of a segment."""
    (left_sum, left_starts), (right_sum, right_starts) = left, right
    return jnp.where(right_starts, right_sum, left_sum + right_sum), left_starts | right_starts


def _keep_rows(row_ids: jax.Array, keep: jax.Array, table_rows: int) -> jax.Array:
    """Row ids where kept, elsewhere ids beyond the table, all different, as unique scatters ask for."""
    return jnp.where(keep, row_ids, table_rows + jnp.arange(row_ids.shape[0], dtype=jnp.int32))
