"""Lays bags flat, so that a batch costs its ids and not the longest bag in every row.

A column of bags of up to 200 ids has 200 id slots a row, most of them empty. Shapes must be static, so the slots in use
are laid side by side in a number of *places* that is fixed by the program: a *share* of all slots of the batch. Shares
come from a short list, `SHARES`; the host takes the smallest that holds a batch, or none, and the bags stay padded. So
no id is ever lost, and there are at most `len(SHARES) + 1` programs. The choice depends on the batch alone.

Pooling is linear. It happens where the rows are read, outside the differentiated function, which sees one vector per
bag; the gradient of a slot is that of its bag. `R` is the number of batch rows whose ids reach a device, `n` the number
of bag columns of a stack, `S` their slots, and `P` the places.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.data.blocks.batch import BagShare
from wukong_jax.embeddings.sum_runs import SortedSlots, sum_runs

jax.tree_util.register_static(BagShare)
# From 1/64 to 1/2, each 1.33 or 1.5 times the one before: batches of one data set need one of them, at times two.
SHARES = tuple(BagShare(share) for k in range(5, -1, -1) for share in (2.0**-k / 2, 0.75 * 2.0**-k))[:-1]


class FlatBags(NamedTuple):
    """The slots of bags side by side, in the order of the batch's rows and of the columns of a row."""

    row_ids: jax.Array  # [P] int32 in [0, V]; V: no row
    bags: jax.Array  # [P] int32, ascending: row of the batch times n plus column; R * n where there is no slot


class BagRows(NamedTuple):
    """Rows of a stack of which some columns are bags laid flat."""

    slots: jax.Array  # [R, slots of the other columns, w] float32
    sums: jax.Array  # [R, n, w] float32, sum of each bag


def choose_share(fill: float) -> BagShare | None:
    """Returns the smallest share of the slots that holds `fill`; None: none does, so bags stay padded."""
    return next((share for share in SHARES if share.of_slots >= fill), None)


def measure_lengths(ids: np.ndarray, columns: Sequence[tuple[int, int]]) -> np.ndarray:
    """Measures bags on the host.

    Args:
      ids: [B, S] int32, -1 = no id.
      columns: slots of each column, (first, one past the last).

    Returns:
      [B, columns] int64, position of the last id in each bag plus 1; 0 for an empty bag.
    """
    lengths = np.zeros((len(ids), len(columns)), np.int64)
    for index, (first, end) in enumerate(columns):
        backwards = ids[:, first:end][:, ::-1] >= 0
        lengths[:, index] = np.where(backwards.any(axis=1), end - first - backwards.argmax(axis=1), 0)
    return lengths


def flatten_bags(ids: jax.Array, row_ids: jax.Array, lengths: Sequence[int], share: BagShare, no_row: int) -> FlatBags:
    """Lays the bags of a stack flat.

    Args:
      ids: [R, S] int32, -1 = no id.
      row_ids: [R, S] int32 in [0, V].
      lengths: slots of each of the n columns.
      share: share of the R * S slots that there are places for; not less than is used.
      no_row: V.

    Returns:
      The slots up to each bag's last id.
    """
    rows, slots = ids.shape
    columns, bags = len(lengths), rows * len(lengths)
    places = math.ceil(share.of_slots * rows * slots)
    used = _measure(ids, lengths).reshape(-1)
    ends = jnp.cumsum(used)
    starts = ends - used
    numbers, position = jnp.arange(bags, dtype=jnp.int32), jnp.arange(places, dtype=jnp.int32)
    firsts = jnp.where(used > 0, starts, places + numbers)
    marked = jnp.zeros((places,), jnp.int32).at[firsts].set(numbers, mode="drop", unique_indices=True)
    bag = jax.lax.cummax(marked)
    first_slots = jnp.asarray(np.cumsum([0, *lengths[:-1]]), jnp.int32)
    slot = bag // columns * slots + first_slots[bag % columns] + position - starts[bag]
    is_slot = position < ends[-1]
    found = row_ids.reshape(-1)[jnp.where(is_slot, slot, 0)]
    return FlatBags(jnp.where(is_slot, found, no_row), jnp.where(is_slot, bag, bags))


def _measure(ids: jax.Array, lengths: Sequence[int]) -> jax.Array:
    """Returns [R, n] int32, position of the last id in each bag plus 1, see `measure_lengths`."""
    runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
    pieces = jax.lax.split(ids, [length * count for length, count in runs], axis=1)
    measured = []
    for (length, count), piece in zip(runs, pieces, strict=True):
        present = piece.reshape(len(ids), count, length) >= 0
        measured.append(jnp.max(jnp.where(present, jnp.arange(1, length + 1, dtype=jnp.int32), 0), axis=2))
    return jnp.concatenate(measured, axis=1)


def sum_bags(values: jax.Array, bags: jax.Array, count: int, longest: int) -> jax.Array:
    """Sums the values of each bag.

    Args:
      values: [P, w] float32.
      bags: [P] int32, ascending, see `FlatBags`.
      count: R * n, number of bags.
      longest: most slots of a bag.

    Returns:
      [count, w] float32.
    """
    add = functools.partial(add_in_order, count=count)
    # GPUs would add by atomic operations, in no fixed order.
    runs = functools.partial(add_as_runs, count=count, longest=longest)
    return jax.lax.platform_dependent(values, bags, cpu=add, tpu=add, default=runs)


def add_in_order(values: jax.Array, bags: jax.Array, count: int) -> jax.Array:
    """Sums bags by additions one after the other; see `sum_bags`."""
    sums = jnp.zeros((count, values.shape[1]), values.dtype)
    return sums.at[bags].add(values, mode="drop", indices_are_sorted=True)


def add_as_runs(values: jax.Array, bags: jax.Array, count: int, longest: int) -> jax.Array:
    """Sums bags as runs of equal bags, in parallel and in a fixed order; see `sum_bags`."""
    position = jnp.arange(len(bags), dtype=jnp.int32)
    changes = bags[1:] != bags[:-1]
    starts = jnp.concatenate([jnp.ones((1,), bool), changes])
    is_slot = bags < count
    is_last = jnp.concatenate([changes, jnp.ones((1,), bool)]) & is_slot
    before = jnp.where(is_slot, position - jax.lax.cummax(jnp.where(starts, position, 0)), 0)
    sums = sum_runs(values, SortedSlots(position, before, is_last), longest)
    targets = jnp.where(is_last, bags, count + position)
    ends = jnp.full((count,), len(bags), jnp.int32).at[targets].set(position, mode="drop", unique_indices=True)
    return sums.at[ends].get(mode="fill", fill_value=0)


def join_slots(row_ids: jax.Array, flat: FlatBags, gradients: BagRows) -> tuple[jax.Array, jax.Array]:
    """Joins the slots of bags and of the other columns of a stack for the update.

    Args:
      row_ids: [R, slots of the other columns] int32 in [0, V].
      flat: the bags.
      gradients: gradients of the other columns' slots and of the bags' sums.

    Returns:
      [M] int32 row ids and [M, w] float32 gradients.
    """
    width = gradients.slots.shape[-1]
    others, bags = gradients.slots.reshape(-1, width), gradients.sums.reshape(-1, width)
    sources = jnp.concatenate([jnp.arange(len(others), dtype=jnp.int32), len(others) + flat.bags])
    # One gather from what is there once, instead of two joined arrays, so that XLA:GPU reads gradients where they lie.
    of_slots = jnp.concatenate([others, bags]).at[sources].get(mode="fill", fill_value=0)
    return jnp.concatenate([row_ids.reshape(-1), flat.row_ids]), of_slots


def join_ranks(flat: FlatBags, count: int) -> FlatBags:
    """Joins the bags of several ranks, [ranks, P] each, `count` bags a rank, as those of one batch."""
    ranks = len(flat.bags)
    shifted = flat.bags + count * jnp.arange(ranks, dtype=jnp.int32)[:, None]
    bags = jnp.where(flat.bags < count, shifted, ranks * count)
    return FlatBags(flat.row_ids.reshape(-1), bags.reshape(-1))
