"""Writes embedding tables as NumPy files, one a table, and maps them into memory."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.messages import describe_error, first_line
from wukong_jax.serving.artefact import ServedTable, TableDtype, table_file

_CHUNK_ROWS = 1 << 16
_LARGEST = 127  # of an int8 number; -128 is not used, so that the range is symmetric


def write_table(folder: Path, index: int, name: str, rows: np.ndarray, dtype: TableDtype) -> ServedTable:
    """Writes a table.

    Args:
      folder: the artefact.
      index: place of the table in the manifest.
      name: name of the table.
      rows: [V, w] float32 or bfloat16.
      dtype: how to store the rows; bfloat16 rows are float32 exactly, float32 rows are rounded to bfloat16.

    Returns:
      The table's line of the manifest.
    """
    kinds = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
    path = table_file(folder, index, "rows")
    path.parent.mkdir(exist_ok=True)
    stored = np.lib.format.open_memmap(path, "w+", kinds[dtype], rows.shape)
    scales = np.zeros(len(rows), np.float32)
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        if dtype == "bfloat16":
            stored[part] = to_bfloat16_bits(rows[part])
        elif dtype == "int8":
            stored[part], scales[part] = quantise_rows(rows[part].astype(np.float32))
        else:
            stored[part] = rows[part].astype(np.float32)
    stored.flush()
    if dtype == "int8":
        np.save(table_file(folder, index, "scales"), scales)
    return ServedTable(name, len(rows), rows.shape[1], dtype)


def to_bfloat16_bits(rows: np.ndarray) -> np.ndarray:
    """Rounds numbers to bfloat16, to the nearest and halves to even, and returns their bits as uint16."""
    import ml_dtypes

    return rows.astype(ml_dtypes.bfloat16).view(np.uint16)


def quantise_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds each row to integers from -127 to 127 times a scale of its own.

    Args:
      rows: [n, w] float32, finite.

    Returns:
      [n, w] int8, and [n] float32 scales, largest magnitude over 127. A number is off by at most half a scale.
    """
    scales = np.abs(rows).max(axis=1, initial=0.0) / np.float32(_LARGEST)
    # A scale below the smallest normal number would be flushed to zero: such a row is zeros.
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(0), scales)
    divisors = np.where(scales > 0, scales, np.float32(1))
    whole = np.rint(rows / divisors[:, None]) * (scales > 0)[:, None]
    return np.clip(whole, -_LARGEST, _LARGEST).astype(np.int8), scales


def map_table(folder: Path, index: int, table: ServedTable) -> tuple[np.ndarray, ...]:
    """Maps a table's files into memory, read only.

    Args:
      folder: the artefact.
      index: place of the table in the manifest.
      table: its line of the manifest.

    Returns:
      The rows [V, w] as float32, uint16 (bits of bfloat16) or int8; with int8 also the scales [V] float32.

    Raises:
      UserError: a file is missing or damaged, or is not the array that the manifest says.
    """
    kind = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}[table.dtype]
    rows = _map_array(table_file(folder, index, "rows"), (table.rows, table.width), kind)
    if table.dtype != "int8":
        return (rows,)
    return rows, _map_array(table_file(folder, index, "scales"), (table.rows,), np.float32)


def unpack_rows(arrays: Sequence[np.ndarray], rows: slice | np.ndarray) -> np.ndarray:
    """Reads rows of a mapped table, in memory.

    Args:
      arrays: of `map_table`.
      rows: which rows, a slice or [n] integers.

    Returns:
      [n, w] float32, exactly the numbers that the artefact's program computes with.
    """
    stored = np.asarray(arrays[0][rows])
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    numbers = np.array(stored, np.float32)  # also of float32 a copy, which no longer reads the file
    return numbers * arrays[1][rows][:, None] if stored.dtype == np.int8 else numbers


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an uncompressed .npz file, without pickle.

    Raises:
      UserError: the file is damaged, or compressed, so that its arrays may be of any size.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            if any(member.compress_type != zipfile.ZIP_STORED for member in packed.infolist()):
                raise ValueError("is compressed")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # damaged zip files raise many kinds
        raise UserError(f"{path}: cannot read ({describe_error(error)}); copy or export it again") from None


def _map_array(path: Path, shape: tuple[int, ...], kind: type) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"{path}: cannot read ({first_line(error)[:150]}); copy or export it again") from None
    if array.shape != shape or array.dtype != kind or not array.flags.c_contiguous:
        raise UserError(
            f"{path}: holds {array.dtype}{list(array.shape)} instead of {np.dtype(kind)}{list(shape)}; export it again"
        )
    return array
