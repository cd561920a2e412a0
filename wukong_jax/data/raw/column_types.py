"""Checks that the type a Parquet file or a data frame gives a raw column fits what the schema makes of the column."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, Schema

Kind = Literal["number", "text", "moment", "bag of numbers", "bag of texts"]

_TYPE_CHARACTERS = 60


def check_column_types(file: Path, types: Mapping[str, pl.DataType], schema: Schema) -> None:
    """Checks the types of raw columns.

    Args:
      file: the file that holds them, for messages.
      types: the type of each raw column; columns that are absent are not checked.
      schema: schema of the raw columns.

    Raises:
      UserError: a type cannot be read as the schema asks.
    """
    for name, kind, separator in _column_kinds(schema):
        if name in types and not _fits(types[name], kind):
            if isinstance(types[name], pl.Object):
                raise UserError(f"{file}, column {name!r}: holds Python objects; give texts, numbers or lists of them")
            shown = str(types[name])
            shown = shown if len(shown) <= _TYPE_CHARACTERS else f"{shown[:_TYPE_CHARACTERS]}..."
            raise UserError(f"{file}, column {name!r}: has type {shown}; {_describe(types[name], kind, separator)}")


def _column_kinds(schema: Schema) -> Iterator[tuple[str, Kind, str | None]]:
    """Yields (raw column, kind, separator of a bag) for every use of a raw column."""
    owners = {column.name: column for column in schema.id_columns}
    for dense in schema.dense:
        yield dense.name, "number", None
    for column in schema.id_columns:
        yield column.name, _id_kind(column, owners[column.vocabulary]), column.separator
    for label in schema.labels:
        yield label.source_column, "text" if label.positive else "number", None
    for name in (schema.domain, schema.group, *schema.timestamp_parts):
        if name is not None:
            yield name, "text", None
    if schema.weight is not None:
        yield schema.weight, "number", None
    if schema.timestamp is not None:
        yield schema.timestamp, "moment", None


def _id_kind(column: CategoricalColumn, owner: CategoricalColumn) -> Kind:
    identity = owner.encoding == "identity"
    if column.separator is not None:
        return "bag of numbers" if identity else "bag of texts"
    return "number" if identity or column.transform != "none" else "text"


def _fits(kind: pl.DataType, wanted: Kind) -> bool:
    if kind == pl.Null:
        return True
    if wanted in ("bag of numbers", "bag of texts"):
        if isinstance(kind, pl.List | pl.Array):
            return _fits(kind.inner, "number" if wanted == "bag of numbers" else "text")  # type: ignore[arg-type]
        return isinstance(kind, pl.String | pl.Categorical | pl.Enum)
    if isinstance(kind, pl.String | pl.Categorical | pl.Enum) or kind.is_numeric():
        return True
    if isinstance(kind, pl.Boolean):
        return wanted != "moment"
    if isinstance(kind, pl.Date | pl.Datetime):
        return wanted != "number"
    return isinstance(kind, pl.Time) and wanted == "text"


def _describe(kind: pl.DataType, wanted: Kind, separator: str | None) -> str:
    if wanted in ("bag of numbers", "bag of texts"):
        values = "numbers" if wanted == "bag of numbers" else "texts or numbers"
        return f"a bag needs lists of {values}, or texts with the separator {separator!r}; convert the column"
    if isinstance(kind, pl.List | pl.Array):
        return "the schema has one value per row here; give the column a `separator` and `max_length` to make it a bag"
    wants = {"number": "a number", "text": "a text or a number", "moment": "a date, a text or seconds since 1970"}
    return f"the schema wants {wants[wanted]}; convert the column"
