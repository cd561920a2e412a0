"""Loads batches from row blocks, shuffled in a global order that does not depend on the number of processes.

The order of an epoch depends only on (seed, epoch), the blocks and `window_rows`. Blocks are permuted, consecutive
permuted blocks form a *shuffle window* of about `window_rows` rows, and rows are permuted within their window. Batches
are consecutive rows in this order, and each process takes its own rows of every batch: those of its devices. A run can
therefore resume at any position, with another number of processes, and see the same batches.

The cost: a process's rows of a batch are spread over the whole window, so every process reads and decompresses every
block, and only gathers its own rows. P processes read P times the data. Blocks are read at 5 M rows/s per
core, so of 64 processes that together train on 1 M rows/s, each spends a fifth of a core on reading, and each reads
the compressed bytes of 1 M rows/s from storage. With a thousand processes, give each host its own copy of the blocks,
or run fewer processes on larger machines.

Grain reads windows ahead in threads; the order does not depend on the number of threads.
"""

import dataclasses
import functools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Protocol

import grain
import numpy as np

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Batch, Columns
from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema
from wukong_jax.strict_mapping import build_dataclass, to_mapping

_FOREVER = 2**62  # windows


class BlockSource(Protocol):
    """Rows in blocks that several threads may read in any order; for example `RowBlocks` or `PlantedSource`."""

    @property
    def rows(self) -> int:
        """Total number of rows."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks; all but the last have the same number of rows."""

    def block_rows(self, index: int) -> int:
        """Returns the number of rows of block `index`."""

    def read(self, index: int) -> Columns:
        """Returns the rows of block `index`."""


@dataclasses.dataclass(frozen=True)
class Position:
    """A position in the training data, stored in checkpoints."""

    epoch: int  # from 0
    seed: int  # seed of the row order
    rows_consumed: int  # in this epoch, over all processes; a multiple of the batch size, 0 at an epoch's start

    def to_dict(self) -> dict[str, int]:
        """Converts the position to a dict for a checkpoint."""
        return to_mapping(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, int]) -> "Position":
        """Builds a position from the result of `to_dict`.

        Raises:
          UserError: a key is unknown or missing.
        """
        return build_dataclass(cls, mapping, "data position")


def iterate_batches(
    source: BlockSource,
    schema: Schema,
    batch_size: int,
    *,
    position: Position,
    shuffle: bool,
    epochs: int | None,
    own_rows: np.ndarray | None = None,
    window_rows: int = 131072,
    threads: int = 2,
) -> Generator[tuple[Batch, Position], None, None]:
    """Yields this process's rows of each global batch, and the position after that batch.

    Args:
      source: the rows.
      schema: schema of the rows.
      batch_size: rows of a global batch.
      position: where to start: `Position(0, seed, 0)`, or a position yielded earlier with any `own_rows`.
      shuffle: False keeps the order of the rows and ignores the seed; for evaluation.
      epochs: number of epochs, counted from the run's start, after which to stop; None never stops.
      own_rows: positions of this process's rows in a batch, ascending; None: all rows.
      window_rows: size of the shuffle window; it determines the order, so a resumed run must not change it.
      threads: threads that read ahead, each holding about one window; 0 reads in the caller's thread.

    Returns:
      A generator of (batch of [own rows], position). The last batch of an epoch is padded
      with rows of weight 0 (ids -1, everything else 0), so an epoch has ceil(rows / batch_size) batches in every
      process. Arrays may be read-only views. Closing the generator stops its threads.

    Raises:
      UserError: the batch size or `own_rows` is out of range, there are no rows, or the position is beyond the last.
    """
    own = np.arange(max(batch_size, 0)) if own_rows is None else own_rows
    _check_arguments(source, batch_size, position, own)
    reader = _WindowReader(
        source=source,
        shuffle=shuffle,
        window_blocks=max(1, window_rows // source.block_rows(0)),
        batch_size=batch_size,
        own=own,
        start=position,
    )
    return _batches(reader, schema, batch_size, position, epochs, threads)


def batch_rows(chunks: Iterable[Columns], schema: Schema, batch_size: int) -> Iterator[Batch]:
    """Divides a stream of rows into batches, in order.

    Args:
      chunks: columns as in blocks, with any number of rows each.
      schema: schema of the rows.
      batch_size: rows per batch.

    Yields:
      Batches of [batch_size] rows; the last one is padded with rows of weight 0.
    """
    stream = _RowStream(chunks)
    while parts := stream.take(batch_size):
        yield _build_batch(parts, schema, batch_size)


def _batches(
    reader: "_WindowReader",
    schema: Schema,
    batch_size: int,
    position: Position,
    epochs: int | None,
    threads: int,
) -> Generator[tuple[Batch, Position], None, None]:
    rows = reader.source.rows
    first = position.epoch * reader.windows_per_epoch + reader.first_window
    stop = _FOREVER if epochs is None else epochs * reader.windows_per_epoch
    windows = grain.MapDataset.range(first, max(first, stop)).map(reader.read)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads) if threads else 0)
    iterator = windows.to_iter_dataset(options, allow_nones=False).__iter__()
    stream = _RowStream(iterator)
    try:
        while epochs is None or position.epoch < epochs:
            left = min(batch_size, rows - position.rows_consumed)
            parts = stream.take(int(np.searchsorted(reader.own, left))) or stream.take_none()
            batch = _build_batch(parts, schema, len(reader.own))
            consumed = position.rows_consumed + left
            ended = consumed == rows
            position = Position(position.epoch + ended, position.seed, 0 if ended else consumed)
            yield batch, position
    finally:
        iterator.close()


@dataclasses.dataclass(frozen=True)
class _EpochOrder:
    """The order of an epoch's blocks and the starts of its windows."""

    blocks: np.ndarray  # [num_blocks], in reading order
    window_starts: np.ndarray  # [windows + 1], rows before each window


class _WindowReader:
    """Reads this process's rows of a window, in the global order."""

    def __init__(
        self, source: BlockSource, shuffle: bool, window_blocks: int, batch_size: int, own: np.ndarray, start: Position
    ) -> None:
        """Creates a reader; `own` are the positions in a batch that belong to this process."""
        self.source, self.own = source, own
        self._is_own = np.isin(np.arange(batch_size), own)
        self._shuffle, self._window_blocks, self._batch_size, self._start = shuffle, window_blocks, batch_size, start
        # Threads are at most a window or two apart, so caching two epochs is enough.
        self._order = functools.lru_cache(maxsize=2)(self._make_order)
        self.windows_per_epoch = -(-source.num_blocks // window_blocks)
        starts = self._order(start.epoch).window_starts
        self.first_window = int(np.searchsorted(starts, start.rows_consumed, side="right")) - 1

    def _make_order(self, epoch: int) -> _EpochOrder:
        blocks = np.arange(self.source.num_blocks)
        if self._shuffle:
            blocks = open_stream(self._start.seed, epoch, 0).permutation(blocks)
        full, last = self.source.block_rows(0), self.source.num_blocks - 1
        sizes = np.where(blocks == last, self.source.block_rows(last), full)
        sums = np.add.reduceat(sizes, np.arange(0, len(sizes), self._window_blocks))
        return _EpochOrder(blocks, np.concatenate([[0], np.cumsum(sums)]))

    def read(self, index: int) -> Columns:
        """Reads window `index`, counted over all epochs.

        Returns:
          Arrays of [own rows, ...] by name.
        """
        epoch, window = divmod(int(index), self.windows_per_epoch)
        order = self._order(epoch)
        first = int(order.window_starts[window])
        rows = int(order.window_starts[window + 1]) - first
        chosen = self._own_rows(epoch, window, first, rows)
        blocks = order.blocks[window * self._window_blocks : (window + 1) * self._window_blocks]
        parts = [self.source.read(int(block)) for block in blocks]
        columns = {name: _concatenate([part[name] for part in parts]) for name in parts[0]}
        if chosen is None:
            return columns
        return {name: np.take(array, chosen, axis=0) for name, array in columns.items()}

    def _own_rows(self, epoch: int, window: int, first: int, rows: int) -> np.ndarray | None:
        """Returns this process's rows of the window in order; None means all rows in stored order."""
        begin = self._start.rows_consumed if epoch == self._start.epoch else 0
        whole = len(self.own) == self._batch_size
        if whole and not self._shuffle and begin <= first:
            return None
        chosen = np.arange(rows)
        if self._shuffle:
            chosen = open_stream(self._start.seed, epoch, 1, window).permutation(chosen)
        place = np.arange(first - begin, first - begin + rows)
        return chosen[(place >= 0) & self._is_own[place % self._batch_size]]


class _RowStream:
    """Divides chunks of rows into pieces of any size."""

    def __init__(self, chunks: Iterable[Columns]) -> None:
        self._chunks = iter(chunks)
        self._chunk: Columns = {"weight": np.zeros(0)}
        self._used = 0

    def take(self, rows: int) -> list[Columns]:
        """Returns the next `rows` rows, fewer at the end, as parts to be joined; the parts are views of the chunks."""
        parts: list[Columns] = []
        while rows:
            available = len(self._chunk["weight"]) - self._used
            if available == 0:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._chunk, self._used = chunk, 0
                continue
            count = min(rows, available)
            parts.append({name: array[self._used : self._used + count] for name, array in self._chunk.items()})
            self._used += count
            rows -= count
        return parts

    def take_none(self) -> list[Columns]:
        """Returns no rows, but all columns, so that a batch of padding has the structure of every other."""
        if len(self._chunk) == 1:  # nothing was read yet
            self._chunk, self._used = next(self._chunks, self._chunk), 0
        return [{name: array[:0] for name, array in self._chunk.items()}] if len(self._chunk) > 1 else []


def _build_batch(parts: list[Columns], schema: Schema, batch_size: int) -> Batch:
    """Joins parts to a batch padded to `batch_size` with rows of weight 0; columns not in the schema become extras."""
    shapes = schema.column_shapes()
    extras = {name: array.shape[1:] for name, array in parts[0].items() if name not in shapes} if parts else {}
    missing = batch_size - sum(len(part["weight"]) for part in parts)
    if missing:
        padding = {name: np.zeros((missing, *shape), COLUMN_DTYPES[name]) for name, shape in shapes.items()}
        padding |= {name: np.zeros((missing, *shape), np.float32) for name, shape in extras.items()}
        padding["ids"].fill(-1)
        parts = [*parts, padding]
    columns: dict[str, Any] = {name: _concatenate([part[name] for part in parts]) for name in (*shapes, *extras)}
    return Batch(**{name: columns[name] for name in shapes}, extras={name: columns[name] for name in extras})


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _check_arguments(source: BlockSource, batch_size: int, position: Position, own: np.ndarray) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size = {batch_size}: at least 1")
    if not len(own) or own[0] < 0 or own[-1] >= batch_size or (np.diff(own) <= 0).any():
        raise UserError(f"own_rows of {len(own)} rows: give ascending positions in [0, {batch_size}), at least one")
    if source.rows == 0:
        raise UserError("rows = 0: the split is empty; prepare the data with rows in it")
    if not 0 <= position.rows_consumed < source.rows:
        raise UserError(
            f"data position rows_consumed = {position.rows_consumed}: the split has {source.rows} rows; "
            "resume with the data that the run began with"
        )
