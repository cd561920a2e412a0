"""Encodes single raw columns as arrays: numbers, labels, timestamps, groups and ids.

Values that cannot be read are reported as a `Problem`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import polars as pl

from wukong_jax.data.raw.numeric_transforms import apply_transform
from wukong_jax.data.raw.stable_hash import hash_texts
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn

_DATE_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Values of one column that cannot be read."""

    column: str
    rows: np.ndarray  # [rows] bool, True where the value is bad
    values: pl.Series  # [rows], raw values
    expected: str

    def describe(self, row: int) -> str:
        """Describes the problem of one row, for example "column 'label' = 'x': expected a number"."""
        value = self.values[row]
        shown = repr(f"{value:.15g}") if isinstance(value, float) else repr(value)
        return f"column {self.column!r} = {shown}: expected {self.expected}"


class Coder(Protocol):
    """Maps texts to codes or ids; see `vocabulary`."""

    def encode(self, texts: pl.Series) -> np.ndarray:
        """Returns the code of each text, [n] int32; null counts as the empty text."""


def parse_numbers(values: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Parses numbers.

    Args:
      values: [n] of text or any number type; null and NaN are missing.

    Returns:
      [n] float64, NaN where missing or bad; and [n] bool, True where a value is not a finite number.
    """
    numbers = values.cast(pl.Float64, strict=False)
    unread = numbers.null_count() > values.null_count()
    parsed = (numbers.fill_null(float("nan")) if numbers.null_count() else numbers).to_numpy()
    bad = np.isinf(parsed)
    if unread:
        bad = bad | (numbers.is_null() & values.is_not_null()).to_numpy()
    return (np.where(bad, np.nan, parsed) if bad.any() else parsed), bad


def encode_dense(column: DenseColumn, values: pl.Series, problems: list[Problem]) -> np.ndarray:
    """Encodes a dense column and applies its transform, except standardise, whose mean is not known yet.

    Args:
      column: a dense column of the schema.
      values: [n] raw values.
      problems: list to which values that cannot be read are added.

    Returns:
      [n] float64.
    """
    numbers, bad = parse_numbers(values)
    if bad.any():
        problems.append(Problem(column.name, bad, values, "a number"))
    return apply_transform(
        np.where(np.isnan(numbers), column.missing_value, numbers), column.transform, column.boundaries
    )


def encode_label(label: LabelColumn, values: pl.Series, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Encodes the label of one objective.

    Args:
      label: a label column of the schema.
      values: [n] raw values; a missing value masks the objective.
      problems: list to which values that cannot be read are added.

    Returns:
      Labels and mask, each [n] float32 of 0 and 1; the label is 0 where it is masked.
    """
    if label.positive:
        observed = values.is_not_null().to_numpy()
        positive = values.cast(pl.String).is_in(list(label.positive)).fill_null(False).to_numpy()
        return positive.astype(np.float32), observed.astype(np.float32)
    numbers, bad = parse_numbers(values)
    observed = ~np.isnan(numbers)
    if label.threshold is not None:
        expected, positive = "a number", numbers >= label.threshold
    else:
        expected, positive = "0 or 1 (or -1 for 0), or give the label `positive` or `threshold`", numbers == 1
        bad = bad | (observed & (np.abs(numbers) != 1) & (numbers != 0))
    if bad.any():
        problems.append(Problem(label.source_column, bad, values, expected))
    return positive.astype(np.float32), observed.astype(np.float32)


def encode_weight(name: str, values: pl.Series, problems: list[Problem]) -> np.ndarray:
    """Encodes row weights as [n] float32, at least 0; a missing weight is a problem."""
    numbers, _ = parse_numbers(values)
    bad = ~(numbers >= 0)
    if bad.any():
        problems.append(Problem(name, bad, values, "a number of 0 or above"))
    return np.where(bad, 0.0, numbers).astype(np.float32)


def encode_timestamp(name: str, form: str | None, values: pl.Series, problems: list[Problem]) -> np.ndarray:
    """Encodes timestamps as seconds since 1970, UTC; a missing timestamp is a problem.

    Args:
      name: the column's name.
      form: strftime format of texts; None if they are integers (seconds) or ISO 8601 dates or date-times.
      values: [n] text, integers, dates or date-times.
      problems: list to which values that cannot be read are added.

    Returns:
      [n] int64 seconds.
    """
    if values.dtype.is_temporal():
        seconds = values.cast(pl.Datetime("us")).dt.epoch("s")
    elif form is not None:
        seconds = _parse_dates(values.cast(pl.String), form)
    else:
        seconds = values.cast(pl.Int64, strict=False)
        if seconds.null_count() and values.dtype == pl.String:
            for date_format in _DATE_FORMATS:
                seconds = seconds.fill_null(_parse_dates(values, date_format))
    if seconds.null_count():
        expected = f"a date of the form {form!r}" if form else "seconds since 1970, YYYY-MM-DD or YYYY-MM-DD HH:MM:SS"
        problems.append(Problem(name, seconds.is_null().to_numpy(), values, expected))
    return seconds.fill_null(0).to_numpy().astype(np.int64)


def _parse_dates(texts: pl.Series, form: str) -> pl.Series:
    if "%H" in form and "%M" not in form:  # polars requires minutes with the hour
        texts, form = texts + " 00", form + " %M"
    return texts.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("s")


def encode_group(values: pl.Series) -> np.ndarray:
    """Encodes groups by a 31-bit hash of their text, which needs no stored state.

    Of n groups, a share of about n / 2^31 collides with another group: 0.05 % of a million.

    Args:
      values: [n] raw values; rows with a missing value form one group.

    Returns:
      [n] int32, at least 0.
    """
    return (hash_texts(texts_of(values), salt=0) >> np.uint64(33)).astype(np.int32)


def texts_of(values: pl.Series) -> pl.Series:
    """Converts raw values to texts without nulls; missing values become the empty text."""
    texts = values.cast(pl.String)
    return texts.fill_null("") if texts.null_count() else texts


def join_texts(frame: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """Joins the texts of several raw columns with a space, [n]; null where any of them is missing."""
    return frame.select(pl.concat_str([pl.col(name).cast(pl.String) for name in names], separator=" ")).to_series()


def encode_single(
    column: CategoricalColumn, owner: CategoricalColumn, values: pl.Series, coder: Coder | None, problems: list[Problem]
) -> np.ndarray:
    """Encodes a categorical column with one value per row.

    Args:
      column: a categorical column of the schema.
      owner: the column whose vocabulary it uses, itself or another.
      values: [n] raw values.
      coder: the vocabulary's coder; None for the encodings hash and identity.
      problems: list to which values that cannot be read are added.

    Returns:
      [n] int32, the coder's codes or final ids.
    """
    raw = values
    if column.transform != "none":
        numbers, bad = parse_numbers(values)
        if bad.any():
            problems.append(Problem(column.name, bad, raw, "a number"))
        missing = np.isnan(numbers)
        steps = apply_transform(np.where(missing, 0.0, numbers), column.transform, column.boundaries).astype(np.int64)
        values = pl.Series(steps).set(pl.Series(missing), None)
    ids, not_integer = _encode_values(owner, values, coder)
    if not_integer is not None and not_integer.any():
        problems.append(Problem(column.name, not_integer, raw, "an integer"))
    return ids


def encode_bag(
    column: CategoricalColumn,
    owner: CategoricalColumn,
    values: pl.Series,
    coder: Coder | None,
    latest: bool,
    problems: list[Problem],
) -> tuple[np.ndarray, int]:
    """Encodes a bag or sequence: empty parts are dropped, values fill the first slots, and the other slots are -1.

    Args:
      column: a bag or sequence column of the schema.
      owner: the column whose vocabulary it uses, itself or another.
      values: [n] texts with separators, or lists.
      coder: the vocabulary's coder; None for the encodings hash and identity.
      latest: True keeps the last `max_length` values (a sequence), False the first (a bag); the order is unchanged.
      problems: list to which values that cannot be read are added.

    Returns:
      [max_length, n] int32 codes or ids, -1 = no value; and the number of values dropped for lack of a slot.
    """
    rows, length = len(values), column.max_length
    is_list = isinstance(values.dtype, pl.List)
    lists = values.cast(pl.List(pl.String)) if is_list else texts_of(values).str.split(column.separator or "")
    parts = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = lists.explode(empty_as_null=False, keep_nulls=False)
    used = (flat.is_not_null() & (flat != "")).fill_null(False).to_numpy()
    row = np.repeat(np.arange(rows), parts)[used]
    counts = np.bincount(row, minlength=rows)
    position = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    excess = np.maximum(counts - length, 0)
    if latest:
        position -= excess[row]
    kept = (position >= 0) & (position < length)
    ids, bad = _encode_values(owner, flat.filter(pl.Series(used)).filter(pl.Series(kept)), coder)
    slots = np.full((length, rows), -1, np.int32)
    slots[position[kept], row[kept]] = ids
    if bad is not None and bad.any():
        bad_rows = np.zeros(rows, bool)
        bad_rows[row[kept][bad]] = True
        problems.append(Problem(column.name, bad_rows, values, "integers"))
    return slots, int(excess.sum())


def _encode_values(
    owner: CategoricalColumn, values: pl.Series, coder: Coder | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns codes or ids, [n] int32, and a mask of unreadable values (None if any value can be read)."""
    if coder is not None:
        return coder.encode(values.cast(pl.String)), None
    assert owner.rows is not None
    if owner.encoding == "hash":
        known = np.uint64(owner.rows - 1)
        return (hash_texts(texts_of(values), owner.salt) % known).astype(np.int32) + 1, None
    numbers = values.cast(pl.Int64, strict=False)
    bad = numbers.is_null().to_numpy() & values.is_not_null().to_numpy()
    integers = numbers.fill_null(-1).to_numpy()
    in_range = (integers >= 0) & (integers < owner.rows - 1)
    return np.where(in_range, integers + 1, 0).astype(np.int32), bad
