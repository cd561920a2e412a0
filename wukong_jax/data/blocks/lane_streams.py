"""Divides streams of rows, one for each lane, into pieces, and joins these to batches."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Batch, Columns
from wukong_jax.schema import Schema

Shapes = Mapping[str, tuple[int, ...]]  # of a row, by column


class LaneStreams:
    """Divides the chunks of rows of each lane into pieces of any size."""

    def __init__(self, chunks: Iterable[tuple[int, Columns]]) -> None:
        """Will read (lane, rows) in order; those of a lane wait until they are taken."""
        self._chunks = iter(chunks)
        self._waiting: dict[int, deque[Columns]] = {}
        self._used: dict[int, int] = {}  # rows of the lane's first chunk
        self._first: Columns | None = None

    def take(self, lane: int, rows: int) -> list[Columns]:
        """Returns the next `rows` rows of a lane, fewer at the end, as parts that are views of the chunks."""
        parts: list[Columns] = []
        waiting = self._waiting.setdefault(lane, deque())
        while rows:
            if not waiting:
                if not self._read_chunk():
                    break
                continue
            used = self._used.get(lane, 0)
            chunk = waiting[0]
            count = min(rows, len(chunk["weight"]) - used)
            parts.append({name: array[used : used + count] for name, array in chunk.items()})
            rows -= count
            self._used[lane] = used + count
            if self._used[lane] == len(chunk["weight"]):
                waiting.popleft()
                self._used[lane] = 0
        return parts

    def find_extras(self, schema: Schema) -> Shapes | None:
        """Returns the shapes of a row's columns that are not in the schema; None if no row was read yet."""
        return None if self._first is None else list_extras(self._first, schema)

    def _read_chunk(self) -> bool:
        """Puts the next chunk to its lane's; returns whether there was one."""
        found = next(self._chunks, None)
        if found is None:
            return False
        lane, chunk = found
        if len(chunk["weight"]):
            self._waiting.setdefault(lane, deque()).append(chunk)
            self._first = self._first or {name: array[:0] for name, array in chunk.items()}
        return True


def list_extras(columns: Columns, schema: Schema) -> Shapes:
    """Returns the shapes of a row's columns that are not in the schema."""
    known = schema.column_shapes()
    return {name: array.shape[1:] for name, array in columns.items() if name not in known}


def build_batch(lanes: Sequence[tuple[Sequence[Columns], int]], extras: Shapes, schema: Schema) -> Batch:
    """Joins the rows of lanes to a batch, each padded with rows of weight 0.

    Args:
      lanes: (parts, number of rows with the padding) of each lane.
      extras: shapes of the columns that are not in the schema; they become the batch's extras.
      schema: schema of the rows.
    """
    shapes = schema.column_shapes()
    joined: list[Columns] = []
    for parts, rows in lanes:
        joined += parts
        missing = rows - sum(len(part["weight"]) for part in parts)
        if missing:
            padding = {name: np.zeros((missing, *shape), COLUMN_DTYPES[name]) for name, shape in shapes.items()}
            padding |= {name: np.zeros((missing, *shape), np.float32) for name, shape in extras.items()}
            padding["ids"].fill(-1)
            joined.append(padding)
    columns: dict[str, Any] = {name: concatenate([part[name] for part in joined]) for name in (*shapes, *extras)}
    return Batch(**{name: columns[name] for name in shapes}, extras={name: columns[name] for name in extras})


def concatenate(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates arrays, without a copy if there is one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
