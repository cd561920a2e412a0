"""Gives every value of a raw column one canonical form, whatever type or text it arrives as.

The schema decides what a column means; the type of one file does not. pandas writes an integer column with a missing
value as floats, so `7`, `7.0`, the decimal 7.00 and the texts "7" and "7.0" are one id. Preparing rows and scoring them
use the same functions.

Values used as text (ids, elements of bags, domains, groups, labels with `positive`):
  null and NaN are missing; integers are decimal text; floats and decimals without fraction are integer text; other
  floats are the shortest text that reads back as the same float; booleans are "true" and "false"; dates and date-times
  are ISO 8601 text without a zero fraction, in UTC if they have a time zone. A float too large to hold every integer of
  its magnitude (2^53 in float64) is no exact id and cannot be read. A text stays as it is, except that an integer with
  a zero fraction ("7.0", "-0.00") becomes the integer, and True, TRUE, False and FALSE become lower case.

Values used as numbers: any number type, booleans as 1 and 0, and texts with surrounding blanks allowed.
"""

import re
from typing import NamedTuple

import numpy as np
import polars as pl

_WHOLE_OR_BOOLEAN = r"^(?:-?(?:0|[1-9][0-9]*)\.0+|True|TRUE|False|FALSE)$"
_INTEGER = r"^([+-]?[0-9]+)(?:\.0+)?$"
_ZERO_FRACTION = r"\.?0+$"
_CHANGED, _FRACTION, _CHANGED_ENDS = re.compile(_WHOLE_OR_BOOLEAN), re.compile(r"\.0+\Z"), ("0", "e", "E")
_MARKS = (".", "T", "F")  # no text without one of these is changed
_EXACT_INTEGERS: dict[type[pl.DataType], float] = {pl.Float64: 2.0**53, pl.Float32: 2.0**24, pl.Float16: 2.0**11}
_SMALL = 2e-4  # Python and pandas write floats below 1e-4 with an exponent, and of two digits
_LARGEST_ID = 2.0**31


def to_texts(values: pl.Series) -> tuple[pl.Series, np.ndarray | None]:
    """Converts values to texts; texts pass unchanged, see `canonicalise_texts`.

    Args:
      values: [n] text, number, boolean, date or date-time.

    Returns:
      [n] String, null where missing; and [n] bool, True where a float is no exact id, or None if none can be.
    """
    kind = values.dtype
    if kind.is_float():
        return _write_floats(values)
    if kind.is_decimal():
        texts = values.cast(pl.String)
        fraction = texts.str.contains(".", literal=True)
        return texts.str.replace(_ZERO_FRACTION, "").zip_with(fraction.fill_null(False), texts), None
    if kind.is_temporal():
        return _write_moments(values), None
    return values.cast(pl.String), None


def canonicalise_texts(texts: pl.Series) -> pl.Series:
    """Converts texts to their canonical form.

    Args:
      texts: [n] String; null stays null.

    Returns:
      [n] String; the given series itself if nothing changes.
    """
    if not may_change(join_texts(texts)):  # cheaper than a pattern on each text
        return texts
    candidates = (texts.str.ends_with("0") | texts.str.ends_with("e") | texts.str.ends_with("E")).fill_null(False)
    places = np.flatnonzero(candidates.to_numpy())
    found = texts.gather(places)
    changes = found.str.contains(_WHOLE_OR_BOOLEAN)
    if not changes.any():
        return texts
    changed = found.filter(changes).str.replace(_ZERO_FRACTION, "").str.to_lowercase()
    changed = changed.zip_with(changed != "-0", pl.Series(["0"]))
    return texts.clone().scatter(places[changes.to_numpy()], changed)  # scatter writes in place


def join_texts(texts: pl.Series) -> str:
    """Joins texts, [n] String, into one; null counts as the empty text."""
    return texts.str.join("").item() or ""


def may_change(joined: str) -> bool:
    """Returns False only if no text among those that are joined here has another canonical form than itself."""
    return any(mark in joined for mark in _MARKS)


def canonical_text(text: str) -> str:
    """Returns the canonical form of one text; `canonicalise_texts` does the same to many."""
    if not text.endswith(_CHANGED_ENDS) or not _CHANGED.fullmatch(text):
        return text
    changed = _FRACTION.sub("", text).lower()
    return "0" if changed == "-0" else changed


def canonical_label_text(text: str) -> str:
    """Returns the canonical form of a label's text, in which "true" and "1" are equal, and so are "false" and "0"."""
    form = canonical_text(text)
    return {"true": "1", "false": "0"}.get(form, form)


def parse_numbers(values: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Parses numbers.

    Args:
      values: [n] of text, boolean or any number type; null and NaN are missing.

    Returns:
      [n] float64, NaN where missing or bad; and [n] bool, True where a value is not a finite number.
    """
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    numbers = values.cast(pl.Float64, strict=False)
    if numbers.null_count() > values.null_count() and values.dtype == pl.String:
        numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
    unread = numbers.null_count() > values.null_count()
    parsed = (numbers.fill_null(float("nan")) if numbers.null_count() else numbers).to_numpy()
    bad = np.isinf(parsed)
    if unread:
        bad = bad | (numbers.is_null() & values.is_not_null()).to_numpy()
    return (np.where(bad, np.nan, parsed) if bad.any() else parsed), bad


class Integers(NamedTuple):
    """Integers and what is none; every value is in one of four states."""

    values: np.ndarray  # [n] int64, 0 where there is no integer
    missing: np.ndarray  # [n] bool
    beyond: np.ndarray  # [n] bool, an integer that int64 does not hold
    bad: np.ndarray  # [n] bool, no integer, or a float that does not hold its integer exactly


def parse_integers(values: pl.Series) -> Integers:
    """Parses integers, whatever they come as: 7, 7.0 and the texts "7" and " 7.0" are equal.

    Args:
      values: [n] of text, boolean or any number type; null and NaN are missing.

    Returns:
      The integers.
    """
    if values.dtype.is_float():
        return _split_floats(values)
    if isinstance(values.dtype, pl.Categorical | pl.Enum) or values.dtype.is_decimal():
        values = to_texts(values)[0]
    missing = values.is_null().to_numpy()
    numbers = values.cast(pl.Int64, strict=False)
    whole = values.is_not_null()
    if numbers.null_count() > values.null_count() and values.dtype == pl.String:
        digits = values.str.strip_chars().str.extract(_INTEGER, 1)
        numbers, whole = digits.cast(pl.Int64, strict=False), digits.is_not_null()
    beyond = (numbers.is_null() & whole).to_numpy()
    return Integers(numbers.fill_null(0).to_numpy(), missing, beyond, ~whole.to_numpy() & ~missing)


def _split_floats(values: pl.Series) -> Integers:
    numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    missing, size = np.isnan(numbers), np.abs(numbers)
    inexact = (size >= _EXACT_INTEGERS[type(values.dtype)]) & (size < _LARGEST_ID)
    bad = ~missing & ((np.floor(numbers) != numbers) | np.isinf(numbers) | inexact)
    beyond = ~missing & ~bad & (size >= 2.0**63)
    used = ~(missing | bad | beyond)
    return Integers(np.where(used, numbers, 0.0).astype(np.int64), missing, beyond, bad)


def _write_floats(values: pl.Series) -> tuple[pl.Series, np.ndarray]:
    numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    present = ~np.isnan(numbers)
    inexact = np.abs(numbers) >= _EXACT_INTEGERS[type(values.dtype)]
    whole = np.floor(numbers) == numbers
    used = present & ~inexact
    texts = pl.Series(np.where(used & whole, numbers, 0.0).astype(np.int64)).cast(pl.String)
    fractions = np.flatnonzero(used & ~whole)
    if len(fractions):
        texts = texts.scatter(fractions, _write_fractions(values.gather(fractions)))
    return (texts if used.all() else texts.set(pl.Series(~used), None)), inexact


def _write_fractions(values: pl.Series) -> pl.Series:
    """Writes floats with a fraction as Python does, with the digits that their own type needs."""
    texts = values.cast(pl.String)
    small = np.flatnonzero((values.abs() < _SMALL).to_numpy())
    return texts.scatter(small, [repr(float(text)) for text in texts.gather(small)]) if len(small) else texts


def _write_moments(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.Date):
        return values.dt.to_string("%Y-%m-%d")
    if isinstance(values.dtype, pl.Time):
        return _trim_fraction(values.dt.to_string("%H:%M:%S%.9f"))
    zone = isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone is not None
    moments = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zone else values
    texts = _trim_fraction(moments.dt.to_string("%Y-%m-%d %H:%M:%S%.9f"))
    return texts + "+00:00" if zone else texts


def _trim_fraction(texts: pl.Series) -> pl.Series:
    return texts.str.replace(r"\.?0*$", "")
