"""Batches from row blocks: shuffled by (seed, epoch), the same global order for any number of processes.

The global order of an epoch is a function of (seed, epoch), the blocks and `window_rows` alone. Blocks are
permuted; consecutive permuted blocks form a *window* of about `window_rows` rows; rows are permuted inside their
window. Batches are consecutive rows of that order, and each process takes its slice of every batch. So a run
may resume at any position, with another number of processes, and see the same batches.

What it costs: a process's slice of a batch is spread over the whole window, hence every process reads and
decompresses every block, P processes read P times the data, and only the rows of the slice are gathered. At the
5 M rows/s per core of reading blocks, 64 processes that together train on 1 M rows/s each spend a fifth of a core on
it, and each draws the compressed bytes of 1 M rows/s from the storage; at a thousand processes give each
host its own copy of the blocks, or larger machines fewer processes.

Grain reads the windows ahead in threads; the order does not depend on their number.
"""

import dataclasses
import functools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Protocol

import grain
import numpy as np

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Batch, Columns
from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema
from wukong_jax.strict_mapping import build_dataclass, to_mapping

_FOREVER = 2**62  # windows


class BlockSource(Protocol):
    """Rows in blocks, read at random from several threads: `RowBlocks`, `PlantedSource`, or any like it."""

    @property
    def rows(self) -> int:
        """Rows in all."""

    @property
    def num_blocks(self) -> int:
        """Blocks; all but the last have the same number of rows."""

    def block_rows(self, index: int) -> int:
        """Rows of block `index`."""

    def read(self, index: int) -> Columns:
        """The rows of block `index`."""


@dataclasses.dataclass(frozen=True)
class Position:
    """Where in the data a run stands."""

    epoch: int  # from 0
    seed: int  # of the order
    rows_consumed: int  # of this epoch, over all processes; multiples of the batch, 0 at an epoch's start

    def to_dict(self) -> dict[str, int]:
        """For a checkpoint."""
        return to_mapping(self)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, int]) -> "Position":
        """The inverse of `to_dict`.

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
    process_index: int = 0,
    process_count: int = 1,
    window_rows: int = 131072,
    threads: int = 2,
) -> Generator[tuple[Batch, Position], None, None]:
    """Yields this process's slice of each global batch, and the position after that batch.

    Args:
      source: the rows.
      schema: what they are.
      batch_size: rows of a global batch.
      position: where to start: `Position(0, seed, 0)`, or one yielded before, by any process count.
      shuffle: False keeps the rows' order (and ignores the seed), for evaluation.
      epochs: stop at the end of epoch `epochs` - 1, counted from the run's start; None never stops.
      process_index: which slice.
      process_count: how many slices; must divide `batch_size`.
      window_rows: rows shuffled together; part of the order, so a run that resumes must keep it.
      threads: that read ahead, each holding about one window; 0 reads in the caller's thread.

    Returns:
      A generator of (batch of [batch_size / process_count] rows, position). The last batch of an epoch is padded
      with rows of weight 0 (ids -1, all else 0), so an epoch is ceil(rows / batch_size) batches in every
      process. Arrays may be read-only views. Closing the generator stops its threads.

    Raises:
      UserError: sizes that do not divide, no rows, a position beyond the rows.
    """
    _check_arguments(source, batch_size, position, process_index, process_count)
    share = batch_size // process_count
    reader = _WindowReader(
        source=source,
        shuffle=shuffle,
        window_blocks=max(1, window_rows // source.block_rows(0)),
        batch_size=batch_size,
        own=range(process_index * share, (process_index + 1) * share),
        start=position,
    )
    return _batches(reader, schema, batch_size, position, epochs, threads)


def batch_rows(chunks: Iterable[Columns], schema: Schema, batch_size: int) -> Iterator[Batch]:
    """Cuts a stream of rows into batches, in order.

    Args:
      chunks: any numbers of rows, as in blocks.
      schema: what they are.
      batch_size: rows of a batch.

    Yields:
      Batches of [batch_size] rows; the last is padded with rows of weight 0.
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
            share = len(reader.own)
            own_rows = min(max(left - reader.own.start, 0), share)
            batch = _build_batch(stream.take(own_rows), schema, share)
            consumed = position.rows_consumed + left
            ended = consumed == rows
            position = Position(position.epoch + ended, position.seed, 0 if ended else consumed)
            yield batch, position
    finally:
        iterator.close()


@dataclasses.dataclass(frozen=True)
class _EpochOrder:
    """The order of one epoch's blocks, and where its windows start."""

    blocks: np.ndarray  # [num_blocks], in reading order
    window_starts: np.ndarray  # [windows + 1], rows before each window


class _WindowReader:
    """Reads a window: the process's rows of it, in the global order."""

    def __init__(
        self, source: BlockSource, shuffle: bool, window_blocks: int, batch_size: int, own: range, start: Position
    ) -> None:
        """Notes what to read; `own` are the places in a batch that are this process's."""
        self.source, self.own = source, own
        self._shuffle, self._window_blocks, self._batch_size, self._start = shuffle, window_blocks, batch_size, start
        # Threads are at most a window or two apart, so two epochs are enough.
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
          Name to array of [own rows, ...].
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
        """Rows of the window that are this process's, in order; None means all of them as they lie."""
        begin = self._start.rows_consumed if epoch == self._start.epoch else 0
        whole = len(self.own) == self._batch_size
        if whole and not self._shuffle and begin <= first:
            return None
        chosen = np.arange(rows)
        if self._shuffle:
            chosen = open_stream(self._start.seed, epoch, 1, window).permutation(chosen)
        place = np.arange(first - begin, first - begin + rows)
        in_batch = place % self._batch_size
        return chosen[(place >= 0) & (in_batch >= self.own.start) & (in_batch < self.own.stop)]


class _RowStream:
    """Cuts chunks of rows into pieces of any size."""

    def __init__(self, chunks: Iterable[Columns]) -> None:
        self._chunks = iter(chunks)
        self._chunk: Columns = {"weight": np.zeros(0)}
        self._used = 0

    def take(self, rows: int) -> list[Columns]:
        """The next `rows` rows, fewer at the end, as parts to be joined; views of the chunks."""
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


def _build_batch(parts: list[Columns], schema: Schema, batch_size: int) -> Batch:
    """Joins parts to a batch of `batch_size` rows, padded with rows of weight 0; other columns are its extras."""
    shapes = schema.column_shapes()
    extras = {name: array.shape[1:] for name, array in parts[0].items() if name not in shapes} if parts else {}
    missing = batch_size - sum(len(part["weight"]) for part in parts)
    if missing:
        padding = {name: np.zeros((missing, *shape), COLUMN_DTYPES[name]) for name, shape in shapes.items()}
        padding |= {name: np.zeros((missing, *shape), np.float32) for name, shape in extras.items()}
        padding["ids"].fill(-1)
        parts = [*parts, padding]
    columns = {name: _concatenate([part[name] for part in parts]) for name in (*shapes, *extras)}
    return Batch(**{name: columns[name] for name in shapes}, extras={name: columns[name] for name in extras})


def _concatenate(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _check_arguments(
    source: BlockSource, batch_size: int, position: Position, process_index: int, process_count: int
) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size = {batch_size}: not divisible by the {process_count} processes; choose a positive multiple"
        )
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index = {process_index}: must lie in [0, {process_count})")
    if source.rows == 0:
        raise UserError("rows = 0: the split is empty; prepare the data with rows in it")
    if not 0 <= position.rows_consumed < source.rows:
        raise UserError(
            f"data position rows_consumed = {position.rows_consumed}: the split has {source.rows} rows; "
            "resume with the data that the run began with"
        )
