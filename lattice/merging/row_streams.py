"""Merges the rows of several data sets to one stream, by ascending keys, with one block of each in memory.

By time, a row's key is its timestamp. Otherwise the data sets are interleaved evenly: row i of n has the key
(i + 1/2) / n, so that every part of the stream has the same share of each. Each data set's rows keep their order.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.row_blocks import RowBlocks

KeyedRows = tuple[np.ndarray, Columns]  # keys [rows], ascending over the whole stream, and arrays [rows, ...]


def is_in_order_of_time(blocks: RowBlocks) -> bool:
    """Whether the timestamps of a split never descend; reads its rows."""
    last = np.iinfo(np.int64).min
    for index in range(blocks.num_blocks):
        stamps = blocks.read(index)["timestamp"]
        if stamps[0] < last or (np.diff(stamps) < 0).any():
            return False
        last = stamps[-1]
    return True


def read_keyed_rows(blocks: RowBlocks, by_time: bool) -> Iterator[KeyedRows]:
    """Yields the blocks of a split with the keys of their rows."""
    first = 0
    for index in range(blocks.num_blocks):
        columns = blocks.read(index)
        rows = np.arange(first, first + len(columns["timestamp"]))
        yield columns["timestamp"] if by_time else (2 * rows + 1) / (2 * blocks.rows), columns
        first += len(rows)


def merge_streams(streams: Sequence[Iterator[KeyedRows]]) -> Iterator[Columns]:
    """Merges streams of rows.

    Args:
      streams: each with ascending keys and arrays of the same names.

    Yields:
      Arrays [rows, ...], together all rows in ascending order of (key, stream, place in the stream). What is yielded
      depends on the sizes of the streams' parts only in how it is divided.
    """
    held: dict[int, KeyedRows] = {}
    waiting = dict(enumerate(streams))
    while True:
        for place in [place for place in waiting if place not in held]:
            part = next(waiting[place], None)
            if part is None:
                del waiting[place]
            elif len(part[0]):
                held[place] = part
        if set(held) != set(waiting):  # a part without rows
            continue
        if not held:
            return
        # Up to the key at which the first stream's part ends, no later part has an earlier row. Of the rows with that
        # key, those of later streams wait: the stream may have more of them in its next part.
        bound = min(keys[-1] for keys, _ in held.values())
        ending = next(place for place in sorted(held) if held[place][0][-1] == bound)
        taken = []
        for place in sorted(held):
            keys, columns = held.pop(place)
            count = int(np.searchsorted(keys, bound, side="right" if place <= ending else "left"))
            taken.append((keys[:count], {name: array[:count] for name, array in columns.items()}))
            if count < len(keys):
                held[place] = keys[count:], {name: array[count:] for name, array in columns.items()}
        order = np.argsort(np.concatenate([keys for keys, _ in taken]), kind="stable")
        yield {name: np.concatenate([columns[name] for _, columns in taken])[order] for name in taken[0][1]}
