"""Saves and reads tables as the stacks in which they lie on the devices, so that no process ever holds a whole table.

Several processes save every stack's arrays where they are, and with them a list of the pieces: which rows of which
table lie where. A reader takes from the files only the rectangles of the tables that it asks for, so that a run goes on
with another placement, mesh or number of processes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from wukong_jax.embeddings.exchange import Exchange, StoredPiece
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.tables import Tables, describe_arrays, logical_arrays
from wukong_jax.errors import UserError

STACKS, PIECES = "stacks", "pieces"  # items of a checkpoint


def stack_items(exchange: Exchange, tables: Tables) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns the arrays of every stack by name, and the JSON list of their pieces."""
    arrays = {name: logical_arrays(state) for name, state in tables.items()}
    return arrays, {name: [list(piece) for piece in pieces] for name, pieces in exchange.list_pieces().items()}


class StoredArray:
    """One array of a table in a checkpoint; indexing reads the asked rows, or rows and columns, as NumPy arrays do."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Starts without pieces.

        Args:
          shape: [V] or [V, w] of the whole table.
          dtype: its logical dtype.
        """
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self._pieces: list[tuple[StoredPiece, Any]] = []

    def add(self, piece: StoredPiece, store: Any) -> None:
        """Adds a piece and the array of the stack that holds it."""
        self._pieces.append((piece, store))

    @property
    def is_whole(self) -> bool:
        """Whether the pieces cover the array; those of a table never overlap."""
        if self.ndim == 1:  # column pieces hold one number per row each
            rows = {piece.row_start: piece.row_count for piece, _ in self._pieces}
            return sum(rows.values()) == self.shape[0]
        return sum(piece.row_count * piece.columns for piece, _ in self._pieces) == self.shape[0] * self.shape[1]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Reads rows, or (rows, columns); both are slices without a step."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        start, stop, _ = rows.indices(self.shape[0])
        left, right, _ = columns.indices(self.shape[1] if self.ndim == 2 else 1)
        made = np.empty((stop - start, right - left) if self.ndim == 2 else (stop - start,), self.dtype)
        reads = []
        for piece, store in self._pieces:
            low, high = max(start, piece.row_start), min(stop, piece.row_start + piece.row_count)
            first, last = max(left, piece.column_start), min(right, piece.column_start + piece.columns)
            if low >= high or (self.ndim == 2 and first >= last):
                continue
            shift = piece.first_row - piece.row_start
            if self.ndim == 1:
                reads.append((made[low - start : high - start], store[low + shift : high + shift].read()))
            else:
                inside = slice(first - piece.column_start, last - piece.column_start)
                target = made[low - start : high - start, first - left : last - left]
                reads.append((target, store[low + shift : high + shift, inside].read()))
        for target, read in reads:
            target[...] = read.result().view(self.dtype)
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the whole array."""
        return self[:] if dtype is None else self[:].astype(dtype)


def open_stored_tables(
    folder: Path, pieces: Mapping[str, Any], layout: EmbeddingLayout
) -> dict[str, dict[str, StoredArray]]:
    """Opens the tables of a checkpoint; rows are read when they are asked for.

    Args:
      folder: folder of the checkpoint's item `STACKS`.
      pieces: its item `PIECES`.
      layout: layout of the tables as the run has them now.

    Returns:
      Arrays by table name and array name, as `Exchange.import_tables` takes them.

    Raises:
      UserError: an array is missing or incomplete.
    """
    context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
    by_table: dict[str, list[tuple[str, StoredPiece]]] = {}
    for stack, listed in pieces.items():
        for item in listed:
            piece = StoredPiece(*item)
            by_table.setdefault(piece.table, []).append((stack, piece))
    stores: dict[str, Any] = {}
    tables: dict[str, dict[str, StoredArray]] = {}
    for source in layout.stacks:
        for table, rows in zip(source.tables, source.table_rows, strict=True):
            if table not in by_table:
                continue  # `import_tables` says which tables are missing
            tables[table] = {}
            for name, (trailing, dtype) in describe_arrays(source).items():
                array = StoredArray((rows, *trailing), dtype)
                for stack, piece in by_table[table]:
                    array.add(piece, _open(stores, folder, f"{stack}.{name}", context))
                if not array.is_whole:
                    raise UserError(
                        f"table {table!r}, {name}: the checkpoint's pieces are not the config's "
                        f"{dtype}{[rows, *trailing]}; use the widths and vocabularies that it was saved with"
                    )
                tables[table][name] = array
    return tables


def _open(stores: dict[str, Any], folder: Path, name: str, context: Any) -> Any:
    if name not in stores:
        kvstore = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/", "path": f"{name}/"}
        stores[name] = ts.open({"driver": "zarr", "kvstore": kvstore}, context=context, open=True, read=True).result()
    return stores[name]
