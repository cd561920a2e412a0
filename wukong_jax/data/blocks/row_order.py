"""Says in which order the rows of blocks are read: permuted blocks, cut into lanes, shuffled in windows.

The blocks of an epoch are permuted and laid end to end. That sequence is cut into K *lanes* of equally many rows, up to
one. A *shuffle window* is consecutive blocks of one lane, in which rows are permuted, and a batch takes as many rows of
each lane. So a process that holds the rows of some lanes in every batch needs the blocks of these lanes only, whatever
the number of processes; one block more for each end of a lane, which cuts a block in two. One lane is the whole epoch.
"""

import dataclasses
import functools
from typing import Protocol

import numpy as np

from wukong_jax.data.blocks.random_streams import open_stream

Pieces = tuple[tuple[int, int, int], ...]  # (block, first row, row after the last)


class BlockSizes(Protocol):
    """Rows in blocks, all but the last of equal size."""

    @property
    def rows(self) -> int:
        """Total number of rows."""

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""

    def block_rows(self, index: int) -> int:
        """Returns the number of rows of block `index`."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Rows of one lane that are shuffled together."""

    lane: int
    stream: tuple[int, ...]  # names its random stream in the epoch
    first: int  # rows of the lane before it
    pieces: Pieces  # in the order of blocks

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(stop - start for _, start, stop in self.pieces)


class RowOrder:
    """The order of the rows of every epoch."""

    def __init__(self, sizes: BlockSizes, seed: int, shuffle: bool, window_rows: int, lanes: int) -> None:
        """Computes nothing yet.

        Args:
          sizes: sizes of the blocks.
          seed: seed of the order.
          shuffle: False keeps the order of blocks and rows.
          window_rows: rows that are shuffled together, over all lanes; at least a block in each lane.
          lanes: K, number of lanes.
        """
        self.lanes, self.rows = lanes, sizes.rows
        self._sizes, self._seed, self._shuffle = sizes, seed, shuffle
        full = sizes.block_rows(0)
        self._window_blocks = max(1, window_rows // (full * lanes))
        # A lane may begin within a block and end within another, and the short last block may lie in it.
        most_blocks = min(sizes.num_blocks, -(-sizes.rows // lanes) // full + 3)
        self.windows_of_lane = -(-most_blocks // self._window_blocks)  # in any epoch; the last ones may be empty
        # Threads are at most a window or two apart, so caching two epochs is enough.
        self._order_blocks = functools.lru_cache(maxsize=2)(self._compute_blocks)

    def lane_start(self, lane: int) -> int:
        """Returns the rows of the lanes before a lane; of lane K, all rows."""
        each, more = divmod(self.rows, self.lanes)
        return lane * each + min(lane, more)

    def lane_rows(self, lane: int) -> int:
        """Returns the number of rows of a lane."""
        return self.lane_start(lane + 1) - self.lane_start(lane)

    def find_window(self, epoch: int, lane: int, index: int) -> Window:
        """Returns the window of a lane; one after the lane's last has no rows."""
        blocks, starts = self._order_blocks(epoch)
        begin, end = self.lane_start(lane), self.lane_start(lane + 1)
        lane_block = int(np.searchsorted(starts, begin, side="right")) - 1
        first = lane_block + index * self._window_blocks
        last = min(first + self._window_blocks, int(np.searchsorted(starts, end)))
        pieces = []
        for place in range(first, last):
            start, stop = max(begin, int(starts[place])), min(end, int(starts[place + 1]))
            if start < stop:
                pieces.append((int(blocks[place]), start - int(starts[place]), stop - int(starts[place])))
        before = max(begin, int(starts[min(first, len(blocks))])) - begin
        stream = (index,) if self.lanes == 1 else (index, lane)
        return Window(lane, stream, before, tuple(pieces))

    def find_firsts(self, epoch: int, lane: int) -> np.ndarray:
        """Returns how many rows of a lane come before each of its windows, [windows_of_lane], its length if empty."""
        _, starts = self._order_blocks(epoch)
        begin, end = self.lane_start(lane), self.lane_start(lane + 1)
        lane_block = int(np.searchsorted(starts, begin, side="right")) - 1
        places = lane_block + np.arange(self.windows_of_lane) * self._window_blocks
        return np.clip(starts[np.minimum(places, len(starts) - 1)], begin, end) - begin

    def permute(self, epoch: int, window: Window) -> np.ndarray:
        """Returns the order of a window's rows, [rows], as positions in its pieces laid end to end."""
        rows = np.arange(window.rows)
        return open_stream(self._seed, epoch, 1, *window.stream).permutation(rows) if self._shuffle else rows

    def _compute_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the blocks in order, and the rows before each and after the last."""
        blocks = np.arange(self._sizes.num_blocks)
        if self._shuffle:
            blocks = open_stream(self._seed, epoch, 0).permutation(blocks)
        full, last = self._sizes.block_rows(0), self._sizes.num_blocks - 1
        sizes = np.where(blocks == last, self._sizes.block_rows(last), full)
        return blocks, np.concatenate([[0], np.cumsum(sizes)])
