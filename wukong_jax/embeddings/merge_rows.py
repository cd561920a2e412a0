"""Merging the gradients of equal rows, exactly: each distinct row of a batch is left once.

Two ways with one result (`M` is the number of slots, `U` of distinct rows among them):

* through a scratch column, for CPU: every slot writes its position at its row, reads back what stands there, and
  so all slots of a row agree on one of them, whichever it is. No sort, and nothing to clear: a slot reads only
  what this step wrote.
* by a sort, for other backends: slots sorted by row, the slots of a row summed by doubling: after pass `k` each
  holds the sum of itself and up to `2^(k+1) - 1` slots before it. That adds in an order that the ids alone decide, so
  the replicas of a table on several GPUs stay equal, which atomic additions would not give, and a row that half the
  batch touches is no bottleneck. A loop over passes is one small program whatever M; XLA:TPU compiles a tree of
  slices, as `associative_scan` makes, for minutes.

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
    """Merges by a stable sort and by doubling, in O(M log M) whatever V; fewer passes where no row has many slots.

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
    before = positions - jax.lax.cummax(jnp.where(starts, positions, 0))  # slots of the same row at lower positions
    is_row = ordered < table_rows
    summed = _sum_runs(gradients[sources], before, jnp.max(jnp.where(is_row, before, 0)))
    return MergedRows(_keep_rows(ordered, is_last & is_row, table_rows), summed, sources, None)


def _sum_runs(values: jax.Array, before: jax.Array, most_before: jax.Array) -> jax.Array:
    """[M, w]: each position's sum over itself and the `before` [M] positions before it; right up to `most_before`."""

    def add_shifted(sums_and_shift: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        sums, shift = sums_and_shift
        within = (before >= shift)[:, None]
        return sums + jnp.where(within, jnp.roll(sums, shift, axis=0), 0), 2 * shift

    start = (values, jnp.ones((), jnp.int32))
    return jax.lax.while_loop(lambda carry: carry[1] <= most_before, add_shifted, start)[0]


def _keep_rows(row_ids: jax.Array, keep: jax.Array, table_rows: int) -> jax.Array:
    """Row ids where kept, elsewhere ids beyond the table, all different, as unique scatters ask for."""
    return jnp.where(keep, row_ids, table_rows + jnp.arange(row_ids.shape[0], dtype=jnp.int32))
