"""Puts values of rows that come as Python objects into columns of one type."""

import datetime
import decimal
import math
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

_INT64 = 2**63
_EXACT = 2**53
_TYPES: dict[Any, pl.DataType | type[pl.DataType]] = {
    "bool": pl.Boolean,
    "int": pl.Int64,
    "float": pl.Float64,
    "text": pl.String,
}
_PLAIN: dict[type, Any] = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64, str: pl.String}
_KINDS = {bool: "bool", float: "float", str: "text", datetime.date: "date", datetime.time: "time"}

Kind = Any  # "none", "bool", "int", "float", "text", "date", ...; of a list ("list", kind of its elements); "unusable"


def find_kind(value: Any) -> Kind:
    """Returns which column a value belongs to; "unusable" if it is neither text nor number, moment or list of them."""
    value = _to_python(value)
    if not isinstance(value, list | tuple):
        return _find_single_kind(value)
    kinds = {_find_single_kind(_to_python(element)) for element in value} - {"none"}
    if kinds == {"int", "float"} and all(_is_exact(element) for element in value):
        return "list", "float"
    if len(kinds) > 1 or "unusable" in kinds:
        return "unusable"
    return "list", next(iter(kinds), "text")


def _find_single_kind(value: Any) -> Kind:
    if value is None:
        return "none"
    if isinstance(value, str) and not _is_utf8(value):
        return "unusable"
    if type(value) in _KINDS:
        return _KINDS[type(value)]
    if isinstance(value, int):
        return "int" if -_INT64 <= value < _INT64 else "text"
    if isinstance(value, datetime.datetime):
        return "moment" if value.tzinfo is None else "moment with a zone"
    if isinstance(value, decimal.Decimal):
        return "decimal" if value.is_finite() else "unusable"
    return "unusable"


def to_series(name: str, kind: Kind, values: Sequence[Any]) -> pl.Series:
    """Puts values of one kind into a column.

    Args:
      name: name of the column.
      kind: result of `find_kind` for each value.
      values: [n] values.

    Returns:
      [n] series, null where a value is None.
    """
    plain = [_to_python(value) for value in values]
    if isinstance(kind, tuple):
        inner = to_series(name, kind[1], [_to_python(element) for value in plain for element in value])
        ends = np.cumsum([len(value) for value in plain])
        parts = [inner.slice(end - len(value), len(value)) for end, value in zip(ends.tolist(), plain, strict=True)]
        return pl.Series(name, parts, pl.List(inner.dtype))
    if kind == "none":
        return pl.Series(name, plain, pl.Null)
    if kind == "text":  # also integers beyond 64 bits
        plain = [value if value is None else str(value) for value in plain]
    if kind == "float":
        plain = [value if value is None else float(value) for value in plain]
    return pl.Series(name, plain, _TYPES.get(kind))


def join_plain_rows(names: Sequence[str], rows: Sequence[Any]) -> pl.DataFrame | None:
    """Puts rows into columns, if the values of each column have one type of Python's own, apart from None.

    Args:
      names: the columns.
      rows: what should be mappings from column to value.

    Returns:
      The columns; None if a row is no dict or lacks a column, or a column has values of two types, or of others than
      text, int, float, bool and lists of one of them.
    """
    if set(map(type, rows)) != {dict}:
        return None
    columns = []
    try:
        for name in names:
            values = [row[name] for row in rows]
            dtype = _find_plain_dtype(values)
            if dtype is None:
                return None
            columns.append(pl.Series(name, values, dtype))
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        pl.exceptions.PolarsError,
    ):  # or beyond 64 bits, or no UTF-8
        return None
    return pl.DataFrame(columns)


def _find_plain_dtype(values: Sequence[Any]) -> Any:
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {list}:
        elements = {type(element) for value in values if value for element in value} - {type(None)}
        inner = _PLAIN.get(*elements) if len(elements) == 1 else None if elements else pl.String
        return None if inner is None else pl.List(inner)
    if not kinds:
        return pl.Null
    return _PLAIN.get(*kinds) if len(kinds) == 1 else None


def describe_unusable(name: str, value: Any) -> str:
    """Describes a value of kind "unusable", for example "column 'x' = {}: expected a text ..."."""
    shown = ascii(reprlib.repr(value))[1:-1]  # short, whatever its size or depth
    return f"column {name!r} = {shown}: expected a text, a number, a date, or a list of one kind of them"


def _to_python(value: Any) -> Any:
    """Converts NumPy's scalars and arrays to Python's."""
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


def _is_utf8(text: str) -> bool:
    """Returns whether a text can be stored: one from JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_exact(value: Any) -> bool:
    return value is None or isinstance(value, float) or abs(value) < _EXACT or math.isnan(value)
