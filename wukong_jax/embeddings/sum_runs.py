"""Sums runs of equal rows, reading each value once, for accelerators.

The slots of a batch, sorted by row, form *runs*, one per row. A run of up to `CHUNK` slots is summed directly, by a
gather of up to `CHUNK` values. A longer run is cut into chunks of that many slots; the sums of its chunks form a run
again, which the same procedure sums one level deeper. A run that is cut has more than `CHUNK` slots, so there are at
most `2 n / (CHUNK + 1)` chunks, and the sizes of the levels fall by more than four.

Why in this form: every value is an input of exactly one sum, no array of the values' shape is rearranged or passed
through a loop, and nothing but gathers and additions stands between the values and the sums. XLA:GPU can therefore
compute the sums inside the operation that reads them. The order of additions depends only on the ids, so that copies of
a table on several devices stay equal, and a row touched by half the batch is no bottleneck.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

CHUNK = 8  # 16 needs fewer levels, but twice the reads of positions that hold no slot, which are most of a short run's


class SortedSlots(NamedTuple):
    """Slots in the order of their rows."""

    sources: jax.Array  # [n] int32, position of the slot's value
    before: jax.Array  # [n] int32, number of earlier slots of the same run; 0 for slots without a row
    is_last: jax.Array  # [n] bool, whether the slot is the last of its run; False for slots without a row


def sum_runs(values: jax.Array, slots: SortedSlots, longest: int) -> jax.Array:
    """Sums the values of each run.

    Args:
      values: [n, w] float32.
      slots: the slots.
      longest: length that no run exceeds.

    Returns:
      [n, w] float32; at the last slot of a run the run's sum, 0 elsewhere.
    """
    positions = jnp.arange(slots.sources.shape[0], dtype=jnp.int32)
    is_cut = slots.is_last & (slots.before >= CHUNK)
    whole = jnp.where(slots.is_last & ~is_cut, slots.before + 1, 0)
    sums = _sum_backwards(values, slots.sources, positions, whole)
    if longest <= CHUNK:
        return sums
    chunk_of_slot, chunk_sums, chunks = _sum_chunks(values, slots, is_cut)
    deeper = sum_runs(chunk_sums, chunks, -(-longest // CHUNK))
    return jnp.where(is_cut[:, None], _take(deeper, jnp.where(is_cut, chunk_of_slot, 0)), sums)


def _sum_chunks(values: jax.Array, slots: SortedSlots, is_cut: jax.Array) -> tuple[jax.Array, jax.Array, SortedSlots]:
    """Sums the chunks of the runs that are cut.

    Args:
      values: [n, w] float32.
      slots: the slots.
      is_cut: [n] bool, whether the slot is the last of a run that is cut.

    Returns:
      The chunk that ends at each slot, [n] int32, arbitrary where none does; the chunks' sums, [m, w] float32; and the
      chunks as the slots of the next level.
    """
    slot_count = slots.sources.shape[0]
    chunk_count = 2 * slot_count // (CHUNK + 1)
    # A run of exactly one chunk ends where its chunk does; such a run is not cut.
    ends_chunk = is_cut | ((slots.before % CHUNK == CHUNK - 1) & ~slots.is_last)
    chunk_of_slot = jnp.cumsum(ends_chunk.astype(jnp.int32)) - 1
    positions = jnp.arange(slot_count, dtype=jnp.int32)
    targets = jnp.where(ends_chunk, chunk_of_slot, chunk_count + positions)
    ends = jnp.zeros((chunk_count,), jnp.int32).at[targets].set(positions, mode="drop", unique_indices=True)
    chunks = jnp.arange(chunk_count, dtype=jnp.int32)
    exists = chunks <= chunk_of_slot[-1]
    before = jnp.where(exists, _take(slots.before, ends), 0)
    sums = _sum_backwards(values, slots.sources, ends, jnp.where(exists, before % CHUNK + 1, 0))
    return chunk_of_slot, sums, SortedSlots(chunks, before // CHUNK, exists & _take(slots.is_last, ends))


def _sum_backwards(values: jax.Array, sources: jax.Array, ends: jax.Array, counts: jax.Array) -> jax.Array:
    """Sums the values of the `counts` [m] slots up to and including `ends` [m], at most `CHUNK`, to [m, w]."""
    total = jnp.zeros((), values.dtype)
    for back in range(CHUNK):
        counted = back < counts
        # Reads that do not count all read the same row, which stays in the cache.
        source = jnp.where(counted, _take(sources, jnp.where(counted, ends - back, 0)), 0)
        total = total + jnp.where(counted[:, None], _take(values, source), 0)
    return total


def _take(array: jax.Array, positions: jax.Array) -> jax.Array:
    """Reads positions that are known to be in range."""
    return array.at[positions].get(mode="promise_in_bounds", wrap_negative_indices=False)
