"""Differentiates a batch in parts of rows with sequences of similar lengths, each padded to its own length only.

Sequences that are not pooled take `max_length` tokens in every row, most of them absent where lengths have a long tail.
Each device sorts its rows by *length classes*, shares of the longest from the short list `SHARES`, and differentiates
them in parts. There is one program, with a loop for each class, whose number of turns depends on the batch. Where the
rows of a class do not fill up its parts, shorter ones are computed at its length; no event is ever left out. All
devices take the same turns, because parts of the network may talk between devices.

The result is that of the whole batch, up to the order of additions. Rows are sorted before their ids are routed, so
nothing has to be put back; dropout draws by the numbers that rows have in the batch. It needs a loss that is a sum over
rows, and a model that can leave out absent tokens (`layers.short_sequences`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.exchange import BY_RANK, WHOLE, Exchange
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.layers.short_sequences import shorten_sequences, shortened
from wukong_jax.training.microbatches import CACHED_BYTES, Differentiate

# Each about 2.5 times the one before; every class is a copy of the network in the program.
SHARES = (1 / 16, 1 / 6, 2 / 5, 1.0)
LEAST_PARTS = 8  # a part has at most an eighth of a device's rows, because each class may compute one in vain
LEAST_TOKENS = 32  # of the longest sequence; shorter ones cost more in compiling than in absent tokens


@dataclasses.dataclass(frozen=True)
class LengthParts:
    """The length classes of a run."""

    sequences: tuple[tuple[int, int], ...]  # slots of each sequence among the batch's ids, (first, one past the last)
    shares: tuple[float, ...]  # share of the longest sequence that a class holds, ascending to 1
    rows: tuple[int, ...]  # rows of a part of each class on a device

    def count_places(self, share: float) -> int:
        """Returns how many events of a row a class computes."""
        return sum(shortened(end - first, share) for first, end in self.sequences)


class PartPlan(NamedTuple):
    """The turns of each class for one batch; every device takes its sorted rows in this way."""

    ends: tuple[jax.Array, ...]  # int32 scalars, one past the last row of each class
    turns: tuple[jax.Array, ...]  # int32 scalars
    fill: jax.Array  # float32 scalar, events (up to the last of each sequence) over the places computed for them
    places: jax.Array  # float32 scalar, places computed over those of sequences padded to their longest


def find_short_sequences(layout: EmbeddingLayout, model: Any) -> tuple[tuple[int, int], ...]:
    """Returns the slots of the sequences of which the model can leave out absent tokens; () unless it can of all."""
    names = getattr(model, "short_sequences", ())
    fields = [field for field in layout.fields if field.column in names]
    fits = all(field.pooling == "none" and field.count == 1 and not field.narrow for field in fields)
    return tuple(field.slots for field in fields) if fits else ()


def build_length_parts(
    sequences: Sequence[tuple[int, int]],
    device_rows: int,
    other_tokens: int,
    width: int,
    microbatch: int | None,
    on_cpu: bool,
) -> LengthParts:
    """Chooses the classes and the rows of their parts.

    Args:
      sequences: slots of each sequence.
      device_rows: rows of a batch on one device.
      other_tokens: tokens of a row beside the sequences.
      width: D.
      microbatch: `config.training.microbatch`, most rows of a part of every class; None chooses.
      on_cpu: whether parts should stay in the cache; elsewhere they are as large as `LEAST_PARTS` lets them be.

    Returns:
      The classes; several are left out that would be equally long.
    """
    lengths = [end - first for first, end in sequences]
    by_lengths = {tuple(shortened(longest, share) for longest in lengths): share for share in SHARES}
    rows = []
    for kept in by_lengths:
        tokens = other_tokens + sum(kept)
        wanted = CACHED_BYTES // (4 * width * tokens)
        if microbatch is not None:
            wanted = microbatch
        elif not on_cpu:
            wanted = device_rows
        rows.append(max(1, min(wanted, device_rows // LEAST_PARTS)))
    return LengthParts(tuple(sequences), tuple(by_lengths.values()), tuple(rows))


def sort_by_length(
    exchange: Exchange, parts: LengthParts, batch: Batch, numbers: jax.Array
) -> tuple[Batch, jax.Array, PartPlan]:
    """Sorts each device's rows by length class, ascending and stable, and plans their parts.

    Args:
      exchange: the exchange, whose mesh shards the rows.
      parts: the classes.
      batch: the batch, B rows.
      numbers: [B] int32, number of each row in the batch.

    Returns:
      The batch and the numbers in their new order, and the plan.
    """
    lengths = _measure_sequences(parts, batch.ids)
    classes = _classify(parts, lengths)

    def sort(rows: Any, classes: jax.Array) -> Any:
        order = jnp.argsort(classes, stable=True)
        return jax.tree.map(lambda leaf: leaf[order], rows)

    if exchange.mesh.size > 1:
        sort = exchange.map_shards(sort, (BY_RANK, BY_RANK))
    batch, numbers = sort((batch, numbers), classes)
    return batch, numbers, _plan_parts(parts, classes, lengths, exchange.mesh.size)


def _measure_sequences(parts: LengthParts, ids: jax.Array) -> jax.Array:
    """Returns [B, sequences] int32, position of the last id of each sequence plus 1."""
    measured = []
    for first, end in parts.sequences:
        position = jnp.arange(1, end - first + 1, dtype=jnp.int32)
        measured.append(jnp.max(jnp.where(ids[:, first:end] >= 0, position, 0), axis=1))
    return jnp.stack(measured, axis=1)


def _classify(parts: LengthParts, lengths: jax.Array) -> jax.Array:
    """Returns [B] int32, the first class that holds all sequences of a row."""
    longest = [end - first for first, end in parts.sequences]
    limits = jnp.array([[shortened(own, share) for own in longest] for share in parts.shares], jnp.int32)
    return jnp.sum(jnp.any(lengths[:, None, :] > limits, axis=2), axis=1, dtype=jnp.int32)


def _plan_parts(parts: LengthParts, classes: jax.Array, lengths: jax.Array, devices: int) -> PartPlan:
    """Plans from the longest class, which takes the last rows, to the shortest."""
    by_device = classes.reshape(devices, 1, -1)
    device_rows, kinds = by_device.shape[2], len(parts.shares)
    at_least = jnp.sum(by_device >= jnp.arange(kinds)[:, None], axis=2, dtype=jnp.int32).max(axis=0)
    end = jnp.int32(device_rows)
    ends: list[jax.Array] = []
    turns: list[jax.Array] = []
    computed = jnp.float32(0)
    for kind in reversed(range(kinds)):
        rows = parts.rows[kind]
        wanted = at_least[kind] - (device_rows - end)
        own = jnp.maximum(wanted + rows - 1, 0) // rows
        ends.insert(0, end)
        turns.insert(0, own)
        computed += own * (rows * devices * parts.count_places(parts.shares[kind]))
        end = jnp.maximum(end - own * rows, 0)
    padded = len(classes) * parts.count_places(1.0)
    used = jnp.sum(lengths, dtype=jnp.float32)
    return PartPlan(tuple(ends), tuple(turns), used / computed, computed / padded)


class _Class(NamedTuple):
    """A class's parts of one batch."""

    share: float
    rows: int
    end: jax.Array
    turns: jax.Array
    take: Callable[..., Any]
    put: Callable[..., Any]


def differentiate_by_length(
    differentiate: Differentiate,
    exchange: Exchange,
    parts: LengthParts,
    plan: PartPlan,
    params: Any,
    statistics: Any,
    rows_of_batch: tuple[Any, Any, Batch, jax.Array],
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Differentiates the parts of all classes and adds up.

    Args:
      differentiate: see `microbatches.differentiate_in_parts`.
      exchange: the exchange, whose mesh shards the rows.
      parts: the classes.
      plan: the turns for this batch.
      params: dense weights.
      statistics: statistics of the model, which no row changes.
      rows_of_batch: rows, routing, batch and row numbers of the sorted batch; see
        `microbatches.differentiate_in_parts`.

    Returns:
      As `differentiate` for the whole batch.
    """
    devices = exchange.mesh.size
    device_rows = len(rows_of_batch[-1]) // devices
    shapes = jax.eval_shape(differentiate, params, statistics, *rows_of_batch)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (sums, _), (gradients, row_gradients) = zeros
    carry = (sums, gradients, row_gradients)
    for share, rows, end, turns in zip(parts.shares, parts.rows, plan.ends, plan.turns, strict=True):
        take, put = _build_slices(exchange, device_rows, rows)
        of_class = _Class(share, rows, end, turns, take, put)

        def add_part(turn: jax.Array, carry: Any, of_class: _Class = of_class) -> Any:
            sums, gradients, written = carry
            end_of_part = of_class.end - (of_class.turns - 1 - turn) * of_class.rows
            start = jnp.maximum(end_of_part - of_class.rows, 0)
            own_rows, routed, batch, numbers = of_class.take(rows_of_batch, start)
            # The first part may reach into rows of the next, which are written over when their turn comes.
            counts = jnp.tile(start + jnp.arange(of_class.rows) < end_of_part, devices)
            batch = batch._replace(weight=batch.weight * counts)
            with shorten_sequences(of_class.share):
                found = differentiate(params, statistics, own_rows, routed, batch, numbers)
            (own_sums, _), (own_gradients, own_row_gradients) = found
            sums, gradients = jax.tree.map(jnp.add, (sums, gradients), (own_sums, own_gradients))
            return sums, gradients, of_class.put(written, own_row_gradients, start)

        carry = jax.lax.fori_loop(0, turns, add_part, carry)
    sums, gradients, row_gradients = carry
    return (sums, statistics), (gradients, row_gradients)


def _build_slices(exchange: Exchange, device_rows: int, rows: int) -> tuple[Any, Any]:
    """Returns the functions that take each device's rows from a first one on, and that write them; shard-local."""

    def by_source(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(leaf.shape[0] // device_rows, device_rows, *leaf.shape[1:])

    def take_leaf(leaf: jax.Array, start: jax.Array) -> jax.Array:
        taken = jax.lax.dynamic_slice_in_dim(by_source(leaf), start, rows, axis=1)
        return taken.reshape(leaf.shape[0] // device_rows * rows, *leaf.shape[1:])

    def put_leaf(leaf: jax.Array, own: jax.Array, start: jax.Array) -> jax.Array:
        own = own.reshape(leaf.shape[0] // device_rows, rows, *leaf.shape[1:])
        return jax.lax.dynamic_update_slice_in_dim(by_source(leaf), own, start, axis=1).reshape(leaf.shape)

    def take(tree: Any, start: jax.Array) -> Any:
        return jax.tree.map(partial(take_leaf, start=start), tree)

    def put(tree: Any, own: Any, start: jax.Array) -> Any:
        return jax.tree.map(partial(put_leaf, start=start), tree, own)

    if exchange.mesh.size == 1:
        return take, put
    return exchange.map_shards(take, (BY_RANK, WHOLE)), exchange.map_shards(put, (BY_RANK, BY_RANK, WHOLE))
