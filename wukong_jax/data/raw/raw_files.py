"""Reads raw CSV, TSV (plain or .gz), libfm and Parquet files in bounded chunks, as data frames of text columns.

Text files are read in chunks of whole lines, split into records by `records`, which says what a row is, and parsed by
polars, which is only given text that it reads in the same way. Line numbers are kept, so that errors can name the row.
Values may be quoted with `"` unless the separator is a tab. Parquet is read by polars in batches. Memory holds the
chunk and its parsed form (about 3 to 6 times the chunk's bytes) and, for Parquet, one row group; a quoted value that
spans lines adds up to 1 MiB to the chunk.
"""

import dataclasses
import itertools
from collections.abc import Collection, Generator, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.csv_frames import may_be_typed, parse_csv, strip_numbers
from wukong_jax.data.raw.headers import read_column_names
from wukong_jax.data.raw.libfm_rows import decode_libfm
from wukong_jax.data.raw.parquet_files import read_parquet
from wukong_jax.data.raw.quoted_records import TextLayout
from wukong_jax.data.raw.records import is_regular, split_records
from wukong_jax.data.raw.text_files import ChunkReader, check_line_ends, open_text
from wukong_jax.errors import UserError
from wukong_jax.schema import Source

DEFAULT_CHUNK_BYTES = 16 << 20


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
    bags: Collection[str] | None = None,
    allow_empty: bool = False,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> Iterator[RawRows]:
    """Reads one raw file.

    Args:
      path: the file.
      source: the file's layout.
      needed: raw columns that the file must have.
      bad_rows: receives the lines that `records` refuses.
      optional: raw columns that are returned if present; a CSV file without header may lack all of them. Columns that
        are neither needed nor optional are not returned.
      numbers: raw columns that are used as numbers only; they may be returned as numbers if all values are numbers.
      bags: raw columns that may hold lists, in Parquet; None: any.
      allow_empty: whether a file may be without rows, and then yields nothing.
      chunk_bytes: bytes of text parsed at once.

    Yields:
      Chunks of rows, in file order.

    Raises:
      UserError: the file is missing, empty, truncated or has another layout, or a row is bad and the policy is "stop".
    """
    check_source(source)
    if source.format == "parquet":
        first = 1
        for frame in read_parquet(path, needed, optional, bags, chunk_bytes):
            yield RawRows(path, frame, np.arange(first, first + frame.height, dtype=np.int64))
            first += frame.height
        found = first > 1
    else:
        found = yield from _read_text(path, source, needed, bad_rows, optional, numbers, chunk_bytes)
    if not found and not allow_empty:
        raise UserError(f"{path}: empty file: no rows; remove it from the input")


def check_source(source: Source) -> None:
    """Checks that a layout is consistent.

    Raises:
      UserError: the separator is not one byte or ends a line or value, column names are missing, or libfm's first ids
        do not fit the columns, or the schema is of merged data sets.
    """
    source.require_raw_files()
    if source.format == "csv" and source.separator in ("\n", "\r", '"', "\0"):
        raise UserError(f"source.separator = {source.separator!r}: a line end, quote or NUL cannot separate values")
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


def _read_text(
    path: Path,
    source: Source,
    needed: Collection[str],
    bad_rows: BadRows,
    optional: Collection[str],
    numbers: Collection[str],
    chunk_bytes: int,
) -> Generator[RawRows, None, bool]:
    """Yields the rows of a text file; returns whether there were any, good or bad."""
    quoted = source.format == "csv" and source.separator != "\t"
    found = False
    with open_text(path) as file:
        check_line_ends(path, file, quoted=quoted)
        header = read_column_names(file, path, source, needed, optional, quoted=quoted)
        if header is None:
            return False
        first_line, names = header
        separator = source.separator if source.format == "csv" else " "
        positions = tuple(at for at, name in enumerate(names) if name in numbers)
        layout = TextLayout(separator.encode(), len(names), quoted, positions, source.missing)
        parser = _Parser(layout, names, numbers, source, path)
        reader = ChunkReader(file, path, chunk_bytes)
        kept = [name for name in names if name in needed or name in optional]
        while chunk := reader.read():
            parsed = parser.parse(chunk, reader.at_end())
            reader.give_back(chunk[parsed.consumed_bytes :])
            for line, problem in parsed.refused:
                bad_rows.refuse(path, first_line + line, problem)
            frame, lines = parsed.frame, first_line + parsed.lines
            first_line += parsed.consumed_lines
            found = found or len(lines) > 0 or len(parsed.refused) > 0
            if source.format == "libfm":
                frame, lines = decode_libfm(frame, lines, source, path, bad_rows)
            yield RawRows(path, frame.select(kept), lines)
    return found


@dataclasses.dataclass(frozen=True)
class _Parsed:
    """The rows of a chunk; lines count from 0."""

    frame: pl.DataFrame
    lines: np.ndarray  # [rows] int64
    refused: list[tuple[int, str]]
    consumed_bytes: int
    consumed_lines: int


@dataclasses.dataclass(frozen=True)
class _Parser:
    """Parses chunks of one file."""

    layout: TextLayout
    names: tuple[str, ...]
    numbers: Collection[str]
    source: Source
    path: Path

    def parse(self, chunk: bytes, at_end: bool) -> _Parsed:
        """Parses a chunk that starts at a record's start, except for an unfinished record at its end."""
        typed, refused_by_polars = may_be_typed(self.source), False
        quotes = self.layout.quoted and b'"' in chunk
        if not quotes:  # most often, every line is a record
            frame = self._parse(chunk, typed)
            if frame is not None and is_regular(chunk, frame.height, self.layout):
                return _Parsed(frame, np.arange(frame.height), [], len(chunk), frame.height)
            refused_by_polars = frame is None
        records = split_records(chunk, self.layout, at_end=at_end, check_utf8=not quotes)
        frame = None
        if not refused_by_polars and (not quotes or not records.refused):
            frame = self._parse(records.text, typed)
        if frame is None:
            if quotes:
                records = split_records(chunk, self.layout, at_end=at_end)
            frame = self._parse(records.text, typed=False)
        if frame is None or frame.height != len(records.lines):
            found = "none" if frame is None else f"{frame.height:,}"
            raise UserError(
                f"{self.path}: the parser found {found} of the {len(records.lines):,} rows that start in "
                f"{records.consumed_lines:,} lines; convert the file to Parquet"
            )
        return _Parsed(frame, records.lines, records.refused, records.consumed_bytes, records.consumed_lines)

    def _parse(self, text: bytes, typed: bool) -> pl.DataFrame | None:
        if not text:
            return pl.DataFrame(schema=dict.fromkeys(self.names, pl.String()))
        numbers = self.numbers if typed else ()
        frame = parse_csv(text, self.names, numbers, self.source, quoted=self.layout.quoted)
        return frame if typed or frame is None else strip_numbers(frame, self.numbers, self.source)
