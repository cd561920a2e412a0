"""Reads Parquet files in batches, as data frames whose columns are of single values or lists of them."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from wukong_jax.data.raw.headers import shorten
from wukong_jax.data.raw.text_files import reading
from wukong_jax.errors import UserError
from wukong_jax.messages import first_line

_MAGIC = b"PAR1"
_BYTES_PER_VALUE = 16
_WANTED = "wants a number, text, date or, for a bag, a list of them"


def read_parquet(
    path: Path,
    needed: Collection[str],
    optional: Collection[str],
    bags: Collection[str] | None,
    chunk_bytes: int,
) -> Iterator[pl.DataFrame]:
    """Reads a Parquet file.

    Args:
      path: the file.
      needed: columns that it must have.
      optional: columns that are read if present.
      bags: columns that may hold lists; None: any.
      chunk_bytes: bytes per frame, at 16 bytes a value.

    Yields:
      Frames of rows, in file order; arrays of a fixed size are lists.

    Raises:
      UserError: the file is missing, truncated or no Parquet file, or a column is missing or of a type that no schema
        can use.
    """
    with reading(path), _polars_errors(path):
        _check_magic(path)
        scan = _scan(path)
        types = scan.collect_schema()
        missing = [name for name in needed if name not in types]
        if missing:
            raise UserError(
                f"{path}: no column {missing[0]!r}; it has {shorten(types.names())}{_find_in_path(path, missing[0])}"
            )
        kept = [name for name in types.names() if name in needed or name in optional]
        casts = [_plain(path, name, types[name], bags is None or name in bags) for name in kept]
        rows = max(1, chunk_bytes // (_BYTES_PER_VALUE * max(1, len(kept))))
        for frame in scan.select(casts).collect_batches(chunk_size=rows, maintain_order=True):
            if frame.height:
                yield frame


def read_parquet_types(path: Path) -> dict[str, pl.DataType]:
    """Returns the type of each column of a Parquet file, in file order.

    Raises:
      UserError: the file is missing, truncated or no Parquet file.
    """
    with reading(path), _polars_errors(path):
        _check_magic(path)
        return dict(_scan(path).collect_schema())


def _scan(path: Path) -> pl.LazyFrame:
    """Opens a file; its path is a name and not a pattern, and names of folders are no columns."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


@contextmanager
def _polars_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = shorten([first_line(error)])
        raise UserError(f"{path}: not readable as Parquet ({reason}); write the file again") from None


def _check_magic(path: Path) -> None:
    """Refuses what is not a whole Parquet file before polars tries."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
        size = file.seek(0, 2)
        file.seek(max(0, size - len(_MAGIC)))
        end = file.read()
    if not size:
        raise UserError(f"{path}: empty file; write the file again, or remove it from the input")
    if start != _MAGIC:
        raise UserError(f"{path}: not readable as Parquet (it does not start with PAR1); give a Parquet file")
    if size < 3 * len(_MAGIC) or end != _MAGIC:
        raise UserError(f"{path}: not readable as Parquet (truncated: it does not end with PAR1); fetch the file again")


def _find_in_path(path: Path, name: str) -> str:
    """Says so if a folder of the path gives the column's value, as in Hive's layout year=2024/part-0.parquet."""
    folders = [part for part in path.parts[:-1] if part.startswith(f"{name}=")]
    return f"; the folder {folders[0]} names it, but names of folders are not read: write the column" if folders else ""


def _plain(path: Path, name: str, kind: pl.DataType, may_be_list: bool) -> pl.Expr:
    """Returns the column as single values or lists of them.

    Raises:
      UserError: the column is of another type.
    """
    where = f"{path}, column {name!r}, of type {kind}"
    listed = isinstance(kind, pl.List) or (isinstance(kind, pl.Array) and len(kind.shape) == 1)
    if listed and not may_be_list:
        raise UserError(f"{where}: the schema wants one value per row there; lists are for columns with a separator")
    item = pl.Series(dtype=kind).explode().dtype if listed else kind
    if not (item.is_numeric() or isinstance(item, _SCALARS)):
        raise UserError(f"{where}: the schema {_WANTED}; convert the column or leave it out of the schema")
    plain = pl.String() if isinstance(item, pl.Null) else item
    return pl.col(name).cast(pl.List(plain) if listed else plain)


_SCALARS = (pl.Boolean, pl.String, pl.Categorical, pl.Enum, pl.Date, pl.Datetime, pl.Null)
