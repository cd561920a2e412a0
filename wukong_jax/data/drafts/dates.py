"""Recognises columns of dates: ISO 8601, numbers of seconds to nanoseconds since 1970, and other usual forms.

A form is accepted only if it reads every value of the column, by the same function that prepares rows.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl

from wukong_jax.data.raw.problems import Problem
from wukong_jax.data.raw.timestamps import encode_timestamp
from wukong_jax.schema import TimestampUnit

_YEAR = 31_556_952
_FIRST, _LAST = 20 * _YEAR, 80 * _YEAR  # dates from 1990 to 2050 are believed to be dates
_UNITS: tuple[TimestampUnit, ...] = ("s", "ms", "us", "ns")
_TRIED = 2000  # values of the first chunk on which all forms are tried
# Forms of texts, by the pattern that their texts have; the first that reads all values is drafted.
_DIGITS = {"%y%m%d": 6, "%Y%m%d": 8, "%y%m%d%H": 8, "%Y%m%d%H": 10, "%Y%m%d%H%M": 12, "%Y%m%d%H%M%S": 14}
_DAYS = ("%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%d-%b-%Y", "%d %b %Y", "%d %B %Y", "%b %d %Y")
_HOURS = ("", " %H:%M:%S", " %H:%M", " %H")
_LONG = ("%Y-%m-%d %H", "%Y-%m-%d-%H", "%d/%b/%Y:%H:%M:%S")
_TEXTS = (*_LONG, *(day + hour for day in _DAYS for hour in _HOURS))
# Two of these that read all values cannot be told apart: the day may be the month.
SWAPPED = {f"%m/%d/%Y{hour}": f"%d/%m/%Y{hour}" for hour in _HOURS}


@dataclasses.dataclass(frozen=True)
class DateForm:
    """How a date is written."""

    form: str | None = None  # strftime format; None: ISO 8601, or a number of units since 1970
    unit: TimestampUnit | None = None  # "s", "ms", "us" or "ns": since 1970

    def __str__(self) -> str:
        """Returns the form in words."""
        if self.unit is not None:
            return f"{self.unit} since 1970"
        return "ISO 8601" if self.form is None else self.form


def find_date_forms(texts: pl.Series) -> list[DateForm]:
    """Returns the forms that read all of some texts, of which the first is to be preferred.

    Args:
      texts: [n] texts without nulls.
    """
    some = texts.unique(maintain_order=True).head(_TRIED)
    if not len(some):
        return []
    if bool(some.str.contains(r"^\d+$").all()):
        lengths = set(some.str.len_bytes().to_list())
        forms = [DateForm(form) for form, length in _DIGITS.items() if lengths == {length}]
        forms += [DateForm(unit=unit) for unit in _UNITS]
    elif bool(some.str.contains(r"\d.*\d").all()):
        forms = [DateForm(), *map(DateForm, _TEXTS)]
    else:
        return []
    return keep_date_forms(forms, some)


def keep_date_forms(forms: Sequence[DateForm], texts: pl.Series) -> list[DateForm]:
    """Returns the forms that read all of the texts, as dates from 1990 to 2050."""
    return [form for form in forms if _reads_all(form, texts)]


def read_dates(texts: pl.Series, form: DateForm) -> tuple[np.ndarray, np.ndarray]:
    """Reads dates.

    Args:
      texts: [n] texts or dates.
      form: how they are written.

    Returns:
      Seconds since 1970, [n] int64, and a mask of the values that were read, [n] bool.
    """
    problems: list[Problem] = []
    seconds = encode_timestamp("", form.form, texts, problems, form.unit or "s")
    unread = np.any([problem.rows for problem in problems], axis=0) if problems else np.zeros(len(texts), bool)
    return seconds, ~unread


def _reads_all(form: DateForm, texts: pl.Series) -> bool:
    seconds, read = read_dates(texts, form)
    return bool(read.all()) and len(seconds) > 0 and int(seconds.min()) >= _FIRST and int(seconds.max()) < _LAST
