"""Reads raw CSV, TSV (plain or .gz), libfm and Parquet files in bounded chunks, as data frames of text columns.

Text files are read in chunks of whole lines and parsed by polars. The number of fields of every line is checked, and
line numbers are kept, so that errors can name the row. Blank lines are skipped. Values may be quoted with `"` unless
the separator is a tab. Parquet is read by polars in batches. Memory holds the chunk, its parsed form (about 3 to 6
times the chunk's bytes) and, for Parquet, one row group.
"""

import csv
import dataclasses
import gzip
import io
import itertools
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.errors import UserError
from wukong_jax.schema import Source

DEFAULT_CHUNK_BYTES = 16 << 20

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_QUOTED_BYTES = 1 << 20
_PARQUET_BYTES_PER_VALUE = 16
_CACHED_BYTES = 1 << 18
_NAMES_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class RawRows:
    """A chunk of rows of one file, in file order."""

    file: Path
    frame: pl.DataFrame  # raw columns as text, or with Parquet's types; null = missing
    lines: np.ndarray  # [rows] int64, line numbers from 1; Parquet: row numbers


def read_raw_rows(
    path: Path,
    source: Source,
    needed: Collection[str],
    bad_rows: BadRows,
    *,
    optional: Collection[str] = (),
    numbers: Collection[str] = (),
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> Iterator[RawRows]:
    """Reads one raw file.

    Args:
      path: the file.
      source: the file's layout.
      needed: raw columns that the file must have.
      bad_rows: receives lines with a wrong number of fields.
      optional: raw columns that are returned if present; a CSV file without header may lack all of them. Columns that
        are neither needed nor optional are not returned.
      numbers: raw columns that are used as numbers only; they may be returned as numbers if all values are numbers.
      chunk_bytes: bytes of text parsed at once.

    Yields:
      Chunks of rows, in file order.

    Raises:
      UserError: the file is missing, empty, truncated or has another layout, or a row is bad and the policy is "stop".
    """
    check_source(source)
    if source.format == "parquet":
        yield from _read_parquet(path, needed, optional, chunk_bytes)
        return
    with _reading(path), _open_text(path) as file:
        first_line, names = _column_names(file, path, source, needed, optional)
        quoted = source.format == "csv" and source.separator != "\t"
        rows = 0
        for chunk in _line_chunks(file, path, chunk_bytes, quoted):
            frame, lines = _parse_lines(chunk, first_line, names, numbers, source, path, bad_rows)
            first_line += chunk.count(b"\n")
            if source.format == "libfm":
                frame, lines = _decode_libfm(frame, lines, source, path, bad_rows)
            rows += len(lines)
            kept = [name for name in names if name in needed or name in optional]
            yield RawRows(path, frame.select(kept), lines)
        if rows == 0 and bad_rows.count == 0:
            raise UserError(f"{path}: no rows; remove the file from the input")


def check_source(source: Source) -> None:
    """Checks that a layout is consistent.

    Raises:
      UserError: the separator is not one byte, column names are missing, or libfm's first ids do not fit the columns.
    """
    if source.format == "csv" and len(source.separator.encode()) != 1:
        raise UserError(
            f"source.separator = {source.separator!r}: must be one byte; to remove blanks after it, set "
            "source.strip = true"
        )
    if source.format != "parquet" and not source.columns and (source.format == "libfm" or not source.header):
        raise UserError(f"source.columns = []: format {source.format!r} without a header needs the column names")
    if len(set(source.columns)) != len(source.columns):
        raise UserError(f"source.columns = {list(source.columns)}: a name is listed twice")
    if source.format == "libfm":
        first_ids = source.libfm_first_ids
        ascending = all(a < b for a, b in itertools.pairwise(first_ids))
        if len(first_ids) != len(source.columns) - 1 or not ascending:
            raise UserError(
                f"source.libfm_first_ids = {list(first_ids)}: one ascending id for each column after the label "
                f"({len(source.columns) - 1})"
            )


# --- text in chunks of whole lines ---


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: truncated or damaged .gz ({error}); fetch the file again") from None
    except OSError as error:
        if error.filename is not None and Path(error.filename) != path:
            raise
        raise UserError(f"{path}: cannot read ({error.strerror or error})") from None


def _open_text(path: Path) -> BinaryIO:
    file = path.open("rb")
    magic = file.read(2)
    file.seek(0)
    if magic == _GZIP_MAGIC:
        return io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20)  # type: ignore[arg-type,return-value]
    if path.suffix == ".gz":
        file.close()
        raise UserError(f"{path}: {'empty' if not magic else 'not in gzip format'}; fetch the file again")
    return file


def _column_names(
    file: BinaryIO, path: Path, source: Source, needed: Collection[str], optional: Collection[str]
) -> tuple[int, tuple[str, ...]]:
    """Returns the number of the first data line and its field names, and moves the file to that line."""
    first = file.readline()
    if not first:
        raise UserError(f"{path}: empty file; remove it from the input")
    if source.format == "csv" and source.header:
        names = _split_header(first, source)
        if source.columns and names != source.columns:
            raise UserError(f"{path}, line 1: header {_shorten(names)}; source.columns says {_shorten(source.columns)}")
        if len(set(names)) != len(names):
            raise UserError(f"{path}, line 1: header {_shorten(names)}: a name is listed twice; rename one")
        first_line = 2
    else:
        names, first_line = source.columns, 1
        separator = source.separator if source.format == "csv" else " "
        if optional and first.count(separator.encode()) + 1 == len(names) - len(set(optional) & set(names)):
            names = tuple(name for name in names if name not in optional)
        file.seek(0)
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; it has {_shorten(names)}")
    return first_line, names


def _shorten(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _split_header(line: bytes, source: Source) -> tuple[str, ...]:
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    quote = None if source.separator == "\t" else '"'
    names = next(csv.reader([text], delimiter=source.separator, quotechar=quote), [])
    return tuple(name.strip() if source.strip else name for name in names)


def _line_chunks(file: BinaryIO, path: Path, chunk_bytes: int, quoted: bool) -> Iterator[bytes]:
    """Splits a file into chunks of whole rows; a chunk with an even number of quotes does not end inside a quote."""
    in_place = not isinstance(file, io.BufferedReader) or not isinstance(file.raw, gzip.GzipFile)
    while True:
        if in_place:  # find the end of the line first, so that the chunk is read once and never copied
            start = file.tell()
            file.seek(start + chunk_bytes)
            file.readline()
            stop = file.tell()
            file.seek(start)
            chunk = file.read(stop - start)
        else:
            chunk = file.read(chunk_bytes)
            chunk += file.readline()
        if not chunk:
            return
        limit = len(chunk) + _MAX_QUOTED_BYTES
        while quoted and chunk.count(b'"') % 2:
            line = file.readline()
            chunk += line
            if not line or len(chunk) > limit:
                raise UserError(
                    f'{path}: a quote (") is opened and not closed; quote the whole value and double quotes in it'
                )
        yield chunk


# --- lines to frames ---


def _parse_lines(
    chunk: bytes,
    first_line: int,
    names: tuple[str, ...],
    numbers: Collection[str],
    source: Source,
    path: Path,
    bad_rows: BadRows,
) -> tuple[pl.DataFrame, np.ndarray]:
    """Parses whole lines; returns the good rows and their line numbers."""
    separator = source.separator if source.format == "csv" else " "
    quoted = source.format == "csv" and separator != "\t"
    texts: dict[str, pl.DataType] = dict.fromkeys(names, pl.String())
    typed = texts if source.strip else texts | {name: pl.Float64() for name in names if name in numbers}
    frame = None
    with suppress(pl.exceptions.PolarsError):
        frame = _parse_csv(chunk, typed, source, separator, quoted)
        if _is_regular(chunk, frame.height, len(names), separator, quoted):
            return frame, np.arange(first_line, first_line + frame.height, dtype=np.int64)
    chunk, lines = _drop_bad_lines(chunk, first_line, len(names), separator, quoted, path, bad_rows)
    if not len(lines):
        return pl.DataFrame(schema=texts), lines
    if frame is not None and frame.height == len(lines):
        return frame, lines
    where = f"{path}, lines {lines[0]} to {lines[-1]}"
    try:
        frame = _parse_csv(chunk, texts, source, separator, quoted)
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{where}: not readable as {source.format} ({str(error).splitlines()[0]})") from None
    if frame.height != len(lines):
        raise UserError(f'{where}: a quote (") inside an unquoted value; quote the value and double it')
    return frame, lines


def _parse_csv(
    chunk: bytes, schema: dict[str, pl.DataType], source: Source, separator: str, quoted: bool
) -> pl.DataFrame:
    frame = pl.read_csv(
        chunk,
        has_header=False,
        schema=schema,
        separator=separator,
        quote_char='"' if quoted else None,
        null_values=None if source.strip else [text for text in source.missing if text] or None,
        empty_string_is_null="" in source.missing and not source.strip,
    )
    if source.strip:
        stripped = pl.all().str.strip_chars()
        frame = frame.select(pl.when(~stripped.is_in(list(source.missing))).then(stripped))
    return frame


def _is_regular(chunk: bytes, rows: int, fields: int, separator: str, quoted: bool) -> bool:
    """Whether every line has `fields` fields, given that polars found no line with more.

    As no line has more, the total number of separators is right only if it is right on every line.
    """
    if quoted and b'"' in chunk:
        return False
    text = np.frombuffer(chunk, np.uint8)
    lines, separators = int(not chunk.endswith(b"\n")), 0
    for start in range(0, len(text), _CACHED_BYTES):
        piece = text[start : start + _CACHED_BYTES]
        lines += int(np.count_nonzero(piece == ord("\n")))
        separators += int(np.count_nonzero(piece == ord(separator)))
    return lines == rows and separators == rows * (fields - 1)


def _drop_bad_lines(
    chunk: bytes, first_line: int, fields: int, separator: str, quoted: bool, path: Path, bad_rows: BadRows
) -> tuple[bytes, np.ndarray]:
    """Removes lines that have a wrong number of fields or are not UTF-8; returns the rest and their line numbers."""
    text = np.frombuffer(chunk if chunk.endswith(b"\n") else chunk + b"\n", np.uint8)
    newline, separators = text == ord("\n"), text == ord(separator)
    numbers = first_line + np.cumsum(newline) - newline
    if quoted:
        outside = np.cumsum(text == ord('"'), dtype=np.int64) % 2 == 0
        newline, separators = newline & outside, separators & outside
    ends = np.flatnonzero(newline) + 1
    starts = np.concatenate([[0], ends[:-1]])
    counts = np.cumsum(separators, dtype=np.int64)[ends - 1]
    found = np.diff(counts, prepend=0) + 1
    line_numbers = numbers[starts].astype(np.int64)
    keep = found == fields
    whole = text.tobytes()
    for row in np.flatnonzero(~keep):
        if fields > 1 and not whole[starts[row] : ends[row]].strip(b"\r\n"):
            continue
        bad_rows.refuse(path, int(line_numbers[row]), f"{found[row]} columns: expected {fields}")
    for foreign in _undecodable_lines(whole, starts, ends) if not _is_utf8(whole) else ():
        if keep[foreign]:
            value = whole[starts[foreign] : ends[foreign]].rstrip(b"\r\n")[:60]
            bad_rows.refuse(path, int(line_numbers[foreign]), f"{value!r}: not UTF-8 text")
            keep[foreign] = False
    if keep.all():
        return whole, line_numbers
    good = b"".join([whole[start:end] for start, end in zip(starts[keep], ends[keep], strict=True)])
    return good, line_numbers[keep]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _undecodable_lines(text: bytes, starts: np.ndarray, ends: np.ndarray) -> Iterator[int]:
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if not _is_utf8(text[start:end]):
            yield row


def _decode_libfm(
    frame: pl.DataFrame, lines: np.ndarray, source: Source, path: Path, bad_rows: BadRows
) -> tuple[pl.DataFrame, np.ndarray]:
    """Converts `index:1` to the index within its column, as text."""
    features = source.columns[1:]
    ends = (*source.libfm_first_ids[1:], None)
    keep = np.ones(len(lines), bool)
    columns = [frame[source.columns[0]]] if source.columns[0] in frame.columns else []
    for name, first, end in zip(features, source.libfm_first_ids, ends, strict=True):
        texts = frame[name].fill_null("")
        indices = texts.str.extract(r"^(\d+):1$").cast(pl.Int64, strict=False)
        inside = (indices >= first) & (indices < end) if end is not None else indices >= first
        for row in np.flatnonzero(~inside.fill_null(False).to_numpy() & keep):
            limit = f"{first}:1 to {end - 1}:1" if end is not None else f"{first}:1 or above, with value 1"
            bad_rows.refuse(path, int(lines[row]), f"column {name!r} = {texts[int(row)]!r}: expected {limit}")
            keep[row] = False
        columns.append((indices - first).cast(pl.String).alias(name))
    decoded = pl.DataFrame(columns)
    return (decoded, lines) if keep.all() else (decoded.filter(pl.Series(keep)), lines[keep])


# --- Parquet ---


def _read_parquet(
    path: Path, needed: Collection[str], optional: Collection[str], chunk_bytes: int
) -> Iterator[RawRows]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        scan = pl.scan_parquet(path)
        names = scan.collect_schema().names()
        missing = [name for name in needed if name not in names]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}; it has {_shorten(names)}")
        kept = [name for name in names if name in needed or name in optional]
        rows = max(1, chunk_bytes // (_PARQUET_BYTES_PER_VALUE * len(kept)))
        first = 1
        for frame in scan.select(kept).collect_batches(chunk_size=rows, maintain_order=True):
            yield RawRows(path, frame, np.arange(first, first + frame.height, dtype=np.int64))
            first += frame.height
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    if first == 1:
        raise UserError(f"{path}: no rows; remove the file from the input")
