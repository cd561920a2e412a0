"""Encodes rows to score, from a raw file or a data frame, with the vocabularies of a prepared data set."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.canonical_values import canonical_text, to_texts
from wukong_jax.data.raw.column_types import check_column_types
from wukong_jax.data.raw.raw_files import DEFAULT_CHUNK_BYTES, RawRows, read_raw_rows
from wukong_jax.data.raw.row_encoder import (
    RowEncoder,
    bag_columns,
    count_threads,
    finish_rows,
    number_columns,
    raw_columns,
)
from wukong_jax.data.raw.vocabulary import StoredCodes, ValueCodes, load_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.messages import first_line
from wukong_jax.schema import Schema, Source

_FRAME_ROWS = 65_536  # rows of a frame that are encoded at once
NUMBER_BLANKS = " \t"  # around numbers, which the reader of texts leaves out
_AS_NAMED: Mapping[str, str] = MappingProxyType({})
FRAME = Path("rows")  # used instead of a file name in messages


def read_encoded_rows(
    schema: Schema,
    vocabularies: Path,
    path: Path,
    labels_required: bool,
    *,
    dates: bool = False,
    stored_as: Mapping[str, str] = _AS_NAMED,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
) -> Iterator[Columns]:
    """Encodes a raw file with the vocabularies of a prepared data set, in file order.

    Args:
      schema: the resolved schema from the data set's `schema.json`.
      vocabularies: the data set's `vocabulary` folder.
      path: a raw file in the schema's format.
      labels_required: whether the columns of labels, timestamp, group and weight are required. If not, they are not
        read, whatever they hold: labels are masked, timestamps and groups are 0, and weights are 1.
      dates: read timestamps if there are any, even if labels are not required.
      stored_as: names of vocabularies in the folder, by column, where they differ.
      chunk_bytes: bytes of raw text processed at once.

    Yields:
      Columns as in a block; together they hold every row of the file once. A file without rows yields nothing.

    Raises:
      UserError: the file does not match the schema, or a row cannot be read.
    """
    bad_rows = BadRows("stop", fix="fix the row")  # every row needs a score, so none may be skipped
    needed, optional = raw_columns(schema)
    if labels_required:
        needed, optional = needed + optional, []
    elif schema.source.format == "parquet":  # a column that is not read may have any type
        optional = [name for name in optional if name not in _unread_columns(schema, dates)]
    raw = read_raw_rows(
        path,
        schema.source,
        needed,
        bad_rows,
        optional=optional,
        numbers=number_columns(schema),
        bags=bag_columns(schema),
        allow_empty=True,
        chunk_bytes=chunk_bytes,
    )
    unread = [] if labels_required else _unread_columns(schema, dates)
    yield from _encode(schema, vocabularies, _drop_columns(raw, unread), bad_rows, stored_as)


def encode_frame(
    schema: Schema,
    vocabularies: Path,
    frame: pl.DataFrame,
    *,
    dates: bool = False,
    stored_as: Mapping[str, str] = _AS_NAMED,
) -> Iterator[Columns]:
    """Encodes a data frame with the vocabularies of a prepared data set, like a file with the same rows.

    Texts are read as in the schema's files: the source's `missing` texts are missing values, and if its `strip` is
    set, spaces around values are removed. Other types have the same canonical form as in files (`canonical_values`).

    Args:
      schema: the resolved schema from the data set's `schema.json`.
      vocabularies: the data set's `vocabulary` folder.
      frame: the raw columns by name; other columns are ignored, and so are labels, timestamp, group and weight: labels
        are masked, timestamps and groups are 0, and weights are 1.
      dates: read timestamps if there are any.
      stored_as: names of vocabularies in the folder, by column, where they differ.

    Yields:
      Columns as in a block, in the frame's order; together they hold every row of the frame once.

    Raises:
      UserError: a column is missing or has a type that does not fit the schema, or a value cannot be read.
    """
    parts = split_frame(schema, frame, dates=dates)  # which checks the types before any vocabulary is read
    yield from _encode(schema, vocabularies, parts, BadRows("stop", fix="fix the row"), stored_as)


def split_frame(schema: Schema, frame: pl.DataFrame, *, dates: bool = False) -> Iterator[RawRows]:
    """Checks a data frame and returns its parts, with the values that the reader of the schema's files would find.

    Args:
      schema: the resolved schema.
      frame: see `encode_frame`.
      dates: keep timestamps if there are any.

    Raises:
      UserError: a column is missing or has a type that does not fit the schema, or the schema is of merged data sets.
    """
    schema.source.require_raw_files()
    needed, optional = raw_columns(schema)
    optional = [name for name in optional if name not in _unread_columns(schema, dates)]
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise UserError(f"{FRAME}: no column {missing[0]!r}; it has {', '.join(frame.columns) or 'no columns'}")
    frame = frame.select([name for name in frame.columns if name in needed or name in optional])
    check_column_types(FRAME, frame.schema, schema)
    slices = frame.with_columns(_read_values(frame, schema)).iter_slices(_FRAME_ROWS)
    return (
        RawRows(FRAME, part, np.arange(part.height, dtype=np.int64) + 1 + index * _FRAME_ROWS)
        for index, part in enumerate(slices)
    )


def _unread_columns(schema: Schema, dates: bool) -> list[str]:
    """Returns the raw columns that scoring does not read."""
    read = schema.timestamp_columns if dates else ()
    return [name for name in raw_columns(schema)[1] if name not in read]


def _drop_columns(rows: Iterable[RawRows], names: list[str]) -> Iterator[RawRows]:
    for raw in rows:
        yield dataclasses.replace(raw, frame=raw.frame.drop(names, strict=False))


def build_frame(rows: Any) -> pl.DataFrame:
    """Converts rows to a polars frame.

    Args:
      rows: a polars or pandas frame, or a mapping of columns; null, None, pandas' NaN and NA are missing values.

    Raises:
      UserError: the rows have another type, or the columns do not form a frame.
    """
    if isinstance(rows, pl.DataFrame):
        return rows
    try:
        if isinstance(rows, Mapping):
            return pl.DataFrame(dict(rows))
        if hasattr(rows, "notna") and hasattr(rows, "columns"):
            return pl.DataFrame([_read_pandas(rows, name) for name in rows.columns])
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(
            f"{FRAME}: cannot be converted to a frame ({reason}); give columns of equal length, each of one type"
        ) from None
    kind = type(rows).__name__
    raise UserError(f"{FRAME}: a {kind}; give a polars or pandas frame, a dict of columns, or the path of a raw file")


def _read_pandas(frame: Any, name: Any) -> pl.Series:
    column = frame[name]
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb":
        return pl.Series(str(name), column.to_numpy(), nan_to_null=True)
    return pl.Series(str(name), column.astype(object).where(column.notna(), None).to_list())


def _encode(
    schema: Schema, vocabularies: Path, rows: Iterable[RawRows], bad_rows: BadRows, stored_as: Mapping[str, str]
) -> Iterator[Columns]:
    coders = {
        column.name: StoredCodes(load_vocabulary(vocabularies, stored_as.get(column.name, column.name)))
        for column in schema.id_columns
        if column.vocabulary_of is None and column.encoding == "vocabulary"
    }
    domain_codes = ValueCodes() if schema.domain is not None else None
    with ThreadPoolExecutor(count_threads()) as threads:
        encoder = RowEncoder(schema, coders, domain_codes, threads)
        for raw in rows:
            columns, _ = finish_rows(encoder.encode(raw, bad_rows), schema, {}, domain_codes, bad_rows)
            yield {name: np.ascontiguousarray(array) for name, array in columns.items()}


def _read_values(frame: pl.DataFrame, schema: Schema) -> list[pl.Series]:
    """Returns the columns in which the reader of the schema's files would find other values or no values."""
    source = schema.source
    if source.format == "parquet":
        return []
    numbers = number_columns(schema)
    read = []
    for column in frame:
        if isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum):
            texts = column.cast(pl.String)
            if source.strip or column.name in numbers:
                texts = texts.str.strip_chars(None if source.strip else NUMBER_BLANKS)
            read.append(texts.set(texts.is_in(list(source.missing)).fill_null(False), None))
        elif (typed := _drop_missing(column, source)) is not None:
            read.append(typed)
    return read


def _drop_missing(column: pl.Series, source: Source) -> pl.Series | None:
    """Replaces values whose text in a file would mean "no value", such as the integer -1 for the text "-1"."""
    missing = {canonical_text(text) for text in source.missing if text}
    if not missing or column.dtype.is_nested():
        return None
    texts, _ = to_texts(column)
    return column.set(texts.is_in(sorted(missing)).fill_null(False), None)
