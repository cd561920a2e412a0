"""Saves and reads tables as the stacks in which they lie on the devices, so that no process ever holds a whole table.

Several processes save every stack's arrays where they are, digests of their rows, and a list of the pieces: which rows
of which table lie where. A reader takes from the files only the rectangles of the tables that it asks for, so that a
run goes on with another placement, mesh or number of processes.
"""

import collections
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts

from wukong_jax.embeddings.exchange import Exchange, StoredPiece
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.tables import Tables, describe_arrays, logical_arrays
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import name_on_store
from wukong_jax.runs.row_digests import CHUNK, count_shards, digest_rows, digest_stacks

_open_array = ts.open
STACKS, PIECES, ROW_DIGESTS = "stacks", "pieces", "row_digests"  # items of a checkpoint
# Largest part of a stack's files, which is written and read at a time. Most stacks' shapes give parts of 32 to 48 MiB.
# Smaller ones stay with glibc's allocator when they are freed: several in each thread, up to half a GiB in all.
PART_BYTES = 48 << 20
_KEPT_BYTES = PART_BYTES + (8 << 20)  # of parts and digests, so that the next reading finds the rest of its part
_READ_BYTES = 4 << 20  # of one reading; larger buffers stay with the allocator when they are freed
_READS = 2  # at the same time


def describe_stacks(tables: Tables) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Returns shape, dtype and sharding of the arrays of each stack."""
    return {
        stack: {name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for name, a in arrays.items()}
        for stack, arrays in ((stack, logical_arrays(state)) for stack, state in tables.items())
    }


def stack_items(exchange: Exchange, tables: Tables) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns the items `STACKS`, `ROW_DIGESTS` and `PIECES`: arrays and digests of each stack, and where what lies."""
    arrays = {name: logical_arrays(state) for name, state in tables.items()}
    pieces = {
        stack: {
            "shards": count_shards(next(iter(arrays[stack].values()))),
            "pieces": [list(piece) for piece in pieces],
        }
        for stack, pieces in exchange.list_pieces().items()
    }
    return arrays, digest_stacks(arrays), pieces


class _Stored(NamedTuple):
    """An array of a stack in the files."""

    name: str
    rows: Any  # tensorstore of [R, w] or [R]
    digests: Any  # tensorstore of their digests
    shards: int


class _Reading(NamedTuple):
    """Rows that are being read, from the beginning of a chunk of a shard to the end of one."""

    target: np.ndarray
    rows: Any
    digests: Any
    skipped: int  # rows before the target's first


class StoredArray:
    """One array of a table in a checkpoint; indexing reads the asked rows, or rows and columns, as NumPy arrays do."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Starts without pieces.

        Args:
          shape: [V] or [V, w] of the whole table.
          dtype: its logical dtype.
        """
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self._pieces: list[tuple[StoredPiece, _Stored]] = []

    def add(self, piece: StoredPiece, stored: _Stored) -> None:
        """Adds a piece and the array of the stack that holds it."""
        self._pieces.append((piece, stored))

    @property
    def is_whole(self) -> bool:
        """Whether the pieces cover the array; those of a table never overlap."""
        if self.ndim == 1:  # column pieces hold one number per row each
            rows = {piece.row_start: piece.row_count for piece, _ in self._pieces}
            return sum(rows.values()) == self.shape[0]
        return sum(piece.row_count * piece.columns for piece, _ in self._pieces) == self.shape[0] * self.shape[1]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Reads rows, or (rows, columns); both are slices without a step.

        Raises:
          UserError: the rows differ from those that were saved.
        """
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        start, stop, _ = rows.indices(self.shape[0])
        left, right, _ = columns.indices(self.shape[1] if self.ndim == 2 else 1)
        made = np.empty((stop - start, right - left) if self.ndim == 2 else (stop - start,), self.dtype)
        waiting: collections.deque[tuple[_Stored, _Reading]] = collections.deque()
        for piece, stored in self._pieces:
            low, high = max(start, piece.row_start), min(stop, piece.row_start + piece.row_count)
            first, last = max(left, piece.column_start), min(right, piece.column_start + piece.columns)
            if low >= high or (self.ndim == 2 and first >= last):
                continue
            inside = slice(first - piece.column_start, last - piece.column_start) if self.ndim == 2 else None
            own = made[low - start : high - start]
            target = own if inside is None else own[:, first - left : last - left]
            shift = piece.first_row - piece.row_start
            for reading in _start_readings(stored, low + shift, high + shift, inside, target):
                waiting.append((stored, reading))
                if len(waiting) >= _READS:
                    _finish_reading(*waiting.popleft())
        while waiting:
            _finish_reading(*waiting.popleft())
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the whole array."""
        return self[:] if dtype is None else self[:].astype(dtype)


def _start_readings(
    stored: _Stored, low: int, high: int, columns: slice | None, target: np.ndarray
) -> Iterator[_Reading]:
    """Starts reading rows [low, high) of a stack's array, in parts of whole chunks; one at a time."""
    shard_rows = stored.rows.shape[0] // stored.shards
    shard_chunks = stored.digests.shape[0] // stored.shards
    row_bytes = stored.rows.dtype.numpy_dtype.itemsize * (1 if columns is None else columns.stop - columns.start)
    most = max(1, _READ_BYTES // (row_bytes * CHUNK))  # chunks
    rest = () if columns is None else (columns,)
    start = low
    while start < high:
        shard, inside = divmod(start, shard_rows)
        chunk, shard_end = inside // CHUNK, (shard + 1) * shard_rows
        begin = shard * shard_rows + chunk * CHUNK
        stop = min(high, shard_end, begin + most * CHUNK)
        count = -(-(stop - begin) // CHUNK)
        chunks = slice(shard * shard_chunks + chunk, shard * shard_chunks + chunk + count)
        yield _Reading(
            target[start - low : stop - low],
            stored.rows[(slice(begin, min(begin + count * CHUNK, shard_end)), *rest)].read(),
            stored.digests[(chunks, *rest)].read(),
            start - begin,
        )
        start = stop


def _finish_reading(stored: _Stored, reading: _Reading) -> None:
    rows, digests = reading.rows.result(), reading.digests.result()
    if not np.array_equal(digest_rows(rows), digests):
        raise UserError(f"{stored.name} is damaged (its digest differs); use another checkpoint or a copy of the run")
    asked = rows[reading.skipped : reading.skipped + len(reading.target)]
    reading.target[...] = asked.view(reading.target.dtype)


def open_stored_tables(
    folder: Path, pieces: Mapping[str, Any], layout: EmbeddingLayout
) -> dict[str, dict[str, StoredArray]]:
    """Opens the tables of a checkpoint; rows are read when they are asked for.

    Args:
      folder: folder of the checkpoint.
      pieces: its item `PIECES`.
      layout: layout of the tables as the run has them now.

    Returns:
      Arrays by table name and array name, as `Exchange.import_tables` takes them.

    Raises:
      UserError: an array is missing or incomplete.
    """
    by_table: dict[str, list[tuple[str, StoredPiece]]] = {}
    for stack, listed in pieces.items():
        for item in listed["pieces"]:
            piece = StoredPiece(*item)
            by_table.setdefault(piece.table, []).append((stack, piece))
    shards = {stack: int(listed["shards"]) for stack, listed in pieces.items()}
    opened = _OpenedStacks(folder, shards)
    tables: dict[str, dict[str, StoredArray]] = {}
    for source in layout.stacks:
        for table, rows in zip(source.tables, source.table_rows, strict=True):
            if table not in by_table:
                continue  # `import_tables` says which tables are missing
            tables[table] = {}
            for name, (trailing, dtype) in describe_arrays(source).items():
                array = StoredArray((rows, *trailing), dtype)
                for stack, piece in by_table[table]:
                    array.add(piece, opened.find(stack, name))
                if not array.is_whole:
                    raise UserError(
                        f"table {table!r}, {name}: the checkpoint's pieces are not the config's "
                        f"{dtype}{[rows, *trailing]}; use the widths and vocabularies that it was saved with"
                    )
                tables[table][name] = array
    return tables


class _OpenedStacks:
    """Opens each array of the files once."""

    def __init__(self, folder: Path, shards: Mapping[str, int]) -> None:
        self._folder, self._shards = folder, shards
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": _KEPT_BYTES}})
        self._opened: dict[tuple[str, str], _Stored] = {}

    def find(self, stack: str, name: str) -> _Stored:
        """Returns an array of a stack."""
        key = (stack, name)
        if key not in self._opened:
            path = f"{stack}.{name}"
            rows, digests = self._open(STACKS, path), self._open(ROW_DIGESTS, path)
            self._opened[key] = _Stored(f"stack {stack!r}, {name}", rows, digests, self._shards[stack])
        return self._opened[key]

    def _open(self, item: str, name: str) -> Any:
        folder = self._folder / item
        base = f"{folder}/" if name_on_store(str(folder)) else f"file://{folder.absolute()}/"
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        spec = {"driver": "zarr", "kvstore": kvstore, "recheck_cached_data": "open"}
        return _open_array(spec, context=self._context, open=True, read=True).result()
