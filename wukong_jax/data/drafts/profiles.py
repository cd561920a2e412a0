"""Describes the values of columns, chunk by chunk: what can be counted exactly, and samples for the rest."""

import dataclasses

import numpy as np
import polars as pl

from wukong_jax.data.drafts.dates import DateForm, find_date_forms, keep_date_forms
from wukong_jax.data.drafts.distinct_values import DistinctValues
from wukong_jax.data.raw.canonical_values import canonicalise_texts, to_texts

# Texts that often stand for "no value". Those in `PLAIN_MARKS` are never the name of something.
PLAIN_MARKS = ("NULL", "null", "Null", "N/A", "n/a", "#N/A", "NaN", "nan", "\\N", "(null)", "<NA>", "?")
MARKS = (*PLAIN_MARKS, "NA", "na", "None", "none", "-", "--", ".", "missing", "undefined")
LARGEST = 3e38  # numbers are stored as float32


@dataclasses.dataclass(frozen=True)
class NumberFacts:
    """What the numbers of a column are like; exact."""

    values: int = 0
    fractions: int = 0  # numbers that are not whole
    negatives: int = 0
    leading_zeros: int = 0  # texts such as 007
    minimum: float = np.inf
    maximum: float = -np.inf

    def join(self, other: "NumberFacts") -> "NumberFacts":
        """Returns the facts of both."""
        return NumberFacts(
            self.values + other.values,
            self.fractions + other.fractions,
            self.negatives + other.negatives,
            self.leading_zeros + other.leading_zeros,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


@dataclasses.dataclass(frozen=True)
class ColumnProfile:
    """What is known of a column. "Exact" parts hold for all rows, whatever their number."""

    name: str
    type: str  # "text"; of Parquet: also "number", "bool", "date", "list" or "other"
    rows: int
    empty: int  # rows without a value; exact
    marks: dict[str, int]  # rows with a text that often means "no value"; exact
    padded: int  # rows with blanks around the value; exact
    distinct: int  # distinct values; of lists, distinct elements
    exact: bool  # whether `distinct` is exact; else it is about right
    values: pl.DataFrame  # `value`, `rows`: the values, or a share of them if not exact
    numbers: NumberFacts | None  # None if a value, except the marks, is not a number; exact
    inexact: bool  # whether a float is too large to be an exact id; exact
    date_forms: tuple[DateForm, ...]  # forms that read every value; exact
    sample: pl.Series  # the values in the row sample; null = missing

    @property
    def given(self) -> int:
        """Number of values that are neither empty nor marks."""
        return self.rows - self.empty - sum(self.marks.values())

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self.numbers is not None and self.numbers.fractions == 0

    def without_marks(self, marks: tuple[str, ...]) -> "ColumnProfile":
        """Returns the profile where some marks count as missing, and the others are values like all."""
        taken = {mark: rows for mark, rows in self.marks.items() if mark in marks}
        values = self.values.filter(~pl.col("value").is_in(list(taken))) if taken else self.values
        texts = self.sample.dtype == pl.String
        sample = self.sample.set(self.sample.is_in(list(taken)), None) if taken and texts else self.sample
        left = {mark: rows for mark, rows in self.marks.items() if mark not in marks}
        return dataclasses.replace(
            self,
            empty=self.empty + sum(taken.values()),
            marks={},
            distinct=self.distinct - len(taken) if self.exact else self.distinct,
            values=values,
            numbers=None if left else self.numbers,
            date_forms=() if left else self.date_forms,
            sample=sample,
        )


def type_name(dtype: pl.DataType) -> str:
    """Names the type of a raw column: text, number, bool, date, list, or other (which no schema can read)."""
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Null):
        return "text"
    if isinstance(dtype, pl.List) or (isinstance(dtype, pl.Array) and len(dtype.shape) == 1):
        return "list" if type_name(dtype.inner) in ("text", "number") else "other"  # type: ignore[arg-type]
    if isinstance(dtype, pl.Boolean):
        return "bool"
    if dtype.is_numeric():
        return "number"
    return "date" if isinstance(dtype, pl.Date | pl.Datetime) else "other"


def unreadable_profile(name: str, rows: int) -> ColumnProfile:
    """Describes a column of a type that no schema reads, whose values were not read."""
    values = pl.DataFrame(schema={"value": pl.String, "rows": pl.Int64})
    nothing = pl.Series(name, [], dtype=pl.String)
    return ColumnProfile(name, "other", rows, 0, {}, 0, 0, True, values, None, False, (), nothing)


class ColumnCounter:
    """Counts what the profile of one column says."""

    def __init__(self, name: str, kept_values: int, *, text_file: bool) -> None:
        """Creates a counter.

        Args:
          name: the column's name.
          kept_values: distinct values that are kept.
          text_file: whether the file is text, in which marks can mean "no value" and blanks be trimmed.
        """
        self._name, self._text_file = name, text_file
        self._type = ""
        self._rows = self._empty = self._padded = 0
        self._marks: dict[str, int] = {}
        self._distinct = DistinctValues(kept_values)
        self._numbers: NumberFacts | None = NumberFacts()
        self._inexact = False
        self._date_forms: list[DateForm] | None = None  # None: not tried yet

    def add(self, values: pl.Series) -> None:
        """Adds the values of a chunk; of a text file, with the blanks around them."""
        kind = type_name(values.dtype)
        self._type = kind if self._type in ("", kind) else "other"
        self._rows += len(values)
        if kind == "list":
            self._empty += int((values.list.len().fill_null(0) == 0).sum())
            self._add_list(values)
            return
        if kind == "other":
            self._empty += values.null_count()
            return
        if self._text_file:
            stripped = values.str.strip_chars()
            self._padded += int((stripped != values).sum())
            values = pl.select(pl.when(stripped != "").then(stripped)).to_series()
        if values.dtype.is_float():
            values = values.fill_nan(None)
        self._empty += values.null_count()
        texts, inexact = to_texts(values.drop_nulls())
        self._inexact |= inexact is not None and bool(inexact.any())
        self._distinct.add(canonicalise_texts(texts))
        if self._text_file:
            texts = self._take_marks(texts)
        self._add_numbers(values, texts, kind)
        self._add_dates(values, texts, kind)

    def profile(self, sample: pl.Series) -> ColumnProfile:
        """Returns the profile, with the column's values in the row sample."""
        values = self._distinct.counts()
        return ColumnProfile(
            name=self._name,
            type=self._type,
            rows=self._rows,
            empty=self._empty,
            marks=dict(sorted(self._marks.items())),
            padded=self._padded,
            distinct=self._distinct.distinct,
            exact=self._distinct.exact,
            values=values,
            numbers=self._numbers if self._numbers is not None and self._numbers.values else None,
            inexact=self._inexact,
            date_forms=tuple(self._date_forms or ()),
            sample=self._clean(sample),
        )

    def _clean(self, sample: pl.Series) -> pl.Series:
        if not self._text_file:
            return sample.fill_nan(None) if sample.dtype.is_float() else sample
        stripped = sample.str.strip_chars()
        return pl.select(pl.when(stripped != "").then(stripped)).to_series()

    def _add_list(self, values: pl.Series) -> None:
        elements = values.explode(empty_as_null=False, keep_nulls=False).drop_nulls()
        texts, inexact = to_texts(elements)
        self._inexact |= inexact is not None and bool(inexact.any())
        self._distinct.add(texts)
        self._numbers = self._join(elements.cast(pl.Float64), 0) if elements.dtype.is_numeric() else None

    def _take_marks(self, texts: pl.Series) -> pl.Series:
        marked = texts.is_in(MARKS)
        if not marked.any():
            return texts
        for mark, rows in texts.filter(marked).value_counts().iter_rows():
            self._marks[mark] = self._marks.get(mark, 0) + rows
        return texts.filter(~marked)

    def _add_numbers(self, values: pl.Series, texts: pl.Series, kind: str) -> None:
        if self._numbers is None:
            return
        if kind in ("date", "bool"):
            self._numbers = None
            return
        raw = texts if kind == "text" else values.drop_nulls()
        numbers = raw.cast(pl.Float64, strict=False)
        if numbers.null_count() or numbers.is_nan().any() or (numbers.abs() > LARGEST).any():
            self._numbers = None
            return
        zeros = int(texts.str.contains(r"^-?0\d").sum()) if kind == "text" else 0
        self._numbers = self._join(numbers, zeros)

    def _join(self, numbers: pl.Series, zeros: int) -> NumberFacts | None:
        if self._numbers is None or not len(numbers):
            return self._numbers
        array = numbers.to_numpy()
        facts = NumberFacts(
            len(array),
            int(np.count_nonzero(array != np.floor(array))),
            int(np.count_nonzero(array < 0)),
            zeros,
            float(array.min()),
            float(array.max()),
        )
        return self._numbers.join(facts)

    def _add_dates(self, values: pl.Series, texts: pl.Series, kind: str) -> None:
        if kind == "date":
            self._date_forms = [DateForm()]
        elif kind == "bool" or values.dtype.is_float():
            self._date_forms = []
        elif len(texts) and self._date_forms != []:
            found = find_date_forms(texts) if self._date_forms is None else self._date_forms
            self._date_forms = keep_date_forms(found, texts.unique())
