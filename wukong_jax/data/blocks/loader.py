"""Loads batches from row blocks, shuffled in a global order that does not depend on the number of processes.

The order of an epoch depends only on (seed, epoch), the blocks, `window_rows` and `lanes`; `row_order` says how. Each
process takes its own rows of every batch: those of its devices. A run can therefore resume at any position, with
another number of processes, and see the same batches. How many batches an epoch has follows from the number of rows.

A batch takes as many rows of every lane. A process reads the blocks of the lanes that its rows come from, so with a
lane or more for each process all of them together read every block once, and the blocks in which a lane ends twice.
With one lane, a process's rows of a batch are spread over the whole window, and every process reads every block: P
processes read P times the data. Rows in stored order have one lane, and a process reads only the blocks that have rows
of its own: every block, where a batch has fewer rows than a block for each process.

Grain reads windows ahead in threads; the order does not depend on the number of threads.
"""

import dataclasses
import functools
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Protocol

import grain
import numpy as np

from wukong_jax.data.blocks.batch import Batch, Columns
from wukong_jax.data.blocks.lane_streams import LaneStreams, Shapes, build_batch, concatenate, list_extras
from wukong_jax.data.blocks.row_order import Pieces, RowOrder
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
    lanes: int = 1,
    threads: int = 2,
) -> Generator[tuple[Batch, Position], None, None]:
    """Yields this process's rows of each global batch, and the position after that batch.

    Args:
      source: the rows.
      schema: schema of the rows.
      batch_size: rows of a global batch.
      position: where to start: `Position(0, seed, 0)`, or a position yielded earlier with any `own_rows`.
      shuffle: False keeps the order of the rows in every lane and ignores the seed; for evaluation.
      epochs: number of epochs, counted from the run's start, after which to stop; None never stops.
      own_rows: positions of this process's rows in a batch, ascending; None: all rows.
      window_rows: size of the shuffle window; it determines the order, so a resumed run must not change it.
      lanes: number of lanes that a batch takes rows of; it determines the order, too.
      threads: threads that read ahead, each holding about one window; 0 reads in the caller's thread.

    Returns:
      A generator of (batch of [own rows], position). The last batch of an epoch is padded
      with rows of weight 0 (ids -1, everything else 0) after the rows of each lane, so an epoch has
      ceil(rows / batch_size) batches in every process. Arrays may be read-only views. Closing the generator stops its
      threads.

    Raises:
      UserError: the batch size or `own_rows` is out of range, the lanes do not divide the batch size, there are no
        rows, or the position is beyond the last.
    """
    own = np.arange(max(batch_size, 0)) if own_rows is None else own_rows
    _check_arguments(source, batch_size, position, own, lanes)
    order = RowOrder(source, position.seed, shuffle, window_rows, lanes)
    reader = _WindowReader(source, order, batch_size, own, position)
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
    streams = LaneStreams((0, chunk) for chunk in chunks)
    while parts := streams.take(0, batch_size):
        yield build_batch([(parts, batch_size)], streams.find_extras(schema) or {}, schema)


def _batches(
    reader: "_WindowReader",
    schema: Schema,
    batch_size: int,
    position: Position,
    epochs: int | None,
    threads: int,
) -> Generator[tuple[Batch, Position], None, None]:
    order = reader.order
    first = position.epoch * reader.windows_per_epoch + reader.first_window
    stop = _FOREVER if epochs is None else epochs * reader.windows_per_epoch
    windows = grain.MapDataset.range(first, max(first, stop)).map(reader.read)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads) if threads else 0)
    iterator = windows.to_iter_dataset(options, allow_nones=False).__iter__()
    streams = LaneStreams(iterator)
    extras: Shapes | None = None
    try:
        while epochs is None or position.epoch < epochs:
            taken = position.rows_consumed // order.lanes
            lanes = []
            for lane, own in reader.own.items():
                here = int(np.searchsorted(own, order.lane_rows(lane) - taken))  # all own rows but in the last batch
                lanes.append((streams.take(lane, here), len(own)))
            if extras is None:
                extras = streams.find_extras(schema)
            if extras is None:  # no rows yet, and a batch of padding has the structure of every other
                extras = reader.read_extras(schema)
            batch = build_batch(lanes, extras, schema)
            consumed = min(position.rows_consumed + batch_size, order.rows)
            ended = consumed == order.rows
            position = Position(position.epoch + ended, position.seed, 0 if ended else consumed)
            yield batch, position
    finally:
        iterator.close()


class _WindowReader:
    """Reads this process's rows of windows, in the order in which batches need them."""

    def __init__(
        self, source: BlockSource, order: RowOrder, batch_size: int, own_rows: np.ndarray, start: Position
    ) -> None:
        """Creates a reader; `own_rows` are the positions in a batch that belong to this process."""
        self.order = order
        self._source, self._start = source, start
        self._of_lane = batch_size // order.lanes  # rows of a batch
        places = np.arange(order.lanes) * self._of_lane
        ends = np.searchsorted(own_rows, [*places, batch_size])
        # Places among the rows that a batch takes of a lane, for each lane that this process has rows of.
        self.own = {
            lane: own_rows[ends[lane] : ends[lane + 1]] - places[lane]
            for lane in range(order.lanes)
            if ends[lane] < ends[lane + 1]
        }
        self._is_own = {lane: np.isin(np.arange(self._of_lane), own) for lane, own in self.own.items()}
        self._order_windows = functools.lru_cache(maxsize=2)(self._compute_windows)
        self.windows_per_epoch = len(self.own) * order.windows_of_lane
        self.first_window = self._find_first_window()

    def read(self, index: int) -> tuple[int, Columns]:
        """Reads a window.

        Args:
          index: number of the window in the order of reading, counted over all epochs.

        Returns:
          Its lane, and arrays of [own rows, ...] by name; without other names than "weight" if there are none.
        """
        epoch, place = divmod(int(index), self.windows_per_epoch)
        lane, window_of_lane = self._order_windows(epoch)[place]
        window = self.order.find_window(epoch, int(lane), int(window_of_lane))
        rows = self.order.permute(epoch, window)
        begin = self._begin(epoch)
        in_lane = np.arange(window.first - begin, window.first - begin + window.rows)
        rows = rows[(in_lane >= 0) & self._is_own[window.lane][in_lane % self._of_lane]]
        return window.lane, self._read_rows(window.pieces, rows)

    def read_extras(self, schema: Schema) -> Shapes:
        """Returns the shapes of a row's columns that are not in the schema, after reading a block for it."""
        return list_extras(self._source.read(0), schema)

    def _read_rows(self, pieces: Pieces, rows: np.ndarray) -> Columns:
        """Reads rows of pieces laid end to end; blocks without any are not read."""
        ends = np.cumsum([stop - start for _, start, stop in pieces], dtype=np.int64)
        if not len(rows):
            return {"weight": np.zeros(0, np.float32)}
        if len(rows) < ends[-1]:
            pieces, rows = _drop_pieces(pieces, ends, rows)
        blocks = [(self._source.read(block), slice(start, stop)) for block, start, stop in pieces]
        parts = [{name: array[kept] for name, array in columns.items()} for columns, kept in blocks]
        columns = {name: concatenate([part[name] for part in parts]) for name in parts[0]}
        if len(rows) == len(columns["weight"]) and (np.diff(rows) == 1).all():
            return columns
        return {name: np.take(array, rows, axis=0) for name, array in columns.items()}

    def _begin(self, epoch: int) -> int:
        """Returns the rows of each lane that were taken before the start."""
        return self._start.rows_consumed // self.order.lanes if epoch == self._start.epoch else 0

    def _compute_windows(self, epoch: int) -> np.ndarray:
        """Returns (lane, window of the lane) in the order in which batches need them, [windows_per_epoch, 2]."""
        lanes = np.repeat(list(self.own), self.order.windows_of_lane)
        windows = np.tile(np.arange(self.order.windows_of_lane), len(self.own))
        firsts = np.concatenate([self.order.find_firsts(epoch, lane) for lane in self.own])
        return np.stack([lanes, windows], axis=1)[np.lexsort((windows, lanes, firsts))]

    def _find_first_window(self) -> int:
        """Returns the place of the first window that is not over at the start."""
        epoch, lanes = self._start.epoch, list(self.own)
        order = self._order_windows(epoch)
        begin, places = self._begin(epoch), []
        for lane in lanes:
            window = int(np.searchsorted(self.order.find_firsts(epoch, lane), begin, side="right")) - 1
            places.append(int(np.flatnonzero((order == (lane, window)).all(axis=1))[0]))
        return min(places)


def _drop_pieces(pieces: Pieces, ends: np.ndarray, rows: np.ndarray) -> tuple[Pieces, np.ndarray]:
    """Drops pieces without a row that is wanted.

    Args:
      pieces: the pieces.
      ends: [pieces], rows up to the end of each.
      rows: wanted rows, as positions in the pieces laid end to end.

    Returns:
      The pieces that are left, and the rows' positions in these.
    """
    piece_of = np.searchsorted(ends, rows, side="right")
    dropped = np.bincount(piece_of, minlength=len(pieces)) == 0
    if not dropped.any():
        return pieces, rows
    skipped = np.cumsum(np.diff(ends, prepend=0) * dropped)
    return tuple(piece for piece, drop in zip(pieces, dropped, strict=True) if not drop), rows - skipped[piece_of]


def _check_arguments(source: BlockSource, batch_size: int, position: Position, own: np.ndarray, lanes: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size = {batch_size}: at least 1")
    if not len(own) or own[0] < 0 or own[-1] >= batch_size or (np.diff(own) <= 0).any():
        raise UserError(f"own_rows of {len(own)} rows: give ascending positions in [0, {batch_size}), at least one")
    check_lanes(lanes, batch_size)
    if source.rows == 0:
        raise UserError("rows = 0: the split is empty; prepare the data with rows in it")
    if not 0 <= position.rows_consumed < source.rows:
        raise UserError(
            f"data position rows_consumed = {position.rows_consumed}: the split has {source.rows} rows; "
            "resume with the data that the run began with"
        )
    if position.rows_consumed % lanes:
        raise UserError(
            f"data position rows_consumed = {position.rows_consumed}: not a multiple of {lanes} lanes; "
            "resume with the lanes that the run began with"
        )


def check_lanes(lanes: int, batch_size: int) -> None:
    """Checks that a batch can take as many rows of each lane.

    Raises:
      UserError: the lanes do not divide the batch size.
    """
    if lanes < 1 or batch_size % lanes:
        raise UserError(f"config.data.lanes = {lanes}: does not divide the batch size, {batch_size}; choose a divisor")
