"""Encodes timestamps, which come as numbers, dates, date-times and texts, as seconds since 1970 in UTC."""

import datetime

import numpy as np
import polars as pl

from wukong_jax.data.raw.canonical_values import canonicalise_texts, parse_integers, to_texts
from wukong_jax.data.raw.problems import Problem, add_problem
from wukong_jax.schema import TimestampUnit

_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_FIRST = int(datetime.datetime(1, 1, 1, tzinfo=datetime.UTC).timestamp())
_LAST = int(datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC).timestamp())
_LARGEST_SECONDS = 10**11  # seconds of the year 5138; as milliseconds, the year 1973

_USUAL = "%Y-%m-%d %H:%M:%S"
_DATE_FORMATS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")  # also read one-digit months, days and hours
_ISO = (
    r"(?i)^(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?P<time>[0-9]{2}:[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]+)?)?"
    r" ?(?:Z|UTC|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-9]{2}))?)?)?$"
)


def encode_timestamp(
    name: str, form: str | None, values: pl.Series, problems: list[Problem], unit: TimestampUnit = "s"
) -> np.ndarray:
    """Encodes timestamps as seconds since 1970, UTC, rounded down; a missing timestamp is a problem.

    Args:
      name: the column's name.
      form: strftime format of texts; None if they are integers or ISO 8601 dates or date-times, which are in UTC unless
        they end in Z or an offset such as +02:00.
      values: [n] text, whole numbers, dates or date-times.
      problems: list to which values that cannot be read are added.
      unit: unit of numbers.

    Returns:
      [n] int64 seconds.
    """
    if isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    expected = f"{_UNIT_NAMES[unit]} since 1970, YYYY-MM-DD or YYYY-MM-DD HH:MM:SS (or T, Z, +02:00)"
    if values.dtype.is_temporal():
        seconds = _read_moments(values)
    elif form is not None:
        texts = to_texts(values)[0]
        seconds = _parse_dates(texts, form)
        if seconds.null_count():  # the format of an integer that came as a float
            seconds = seconds.fill_null(_parse_dates(canonicalise_texts(texts), form))
        expected = f"a date of the form {form!r}"
    else:
        seconds, suspicious = _read_numbers(values, unit)
        add_problem(
            problems,
            name,
            suspicious,
            values,
            "seconds since 1970; this looks like a finer unit, so set the "
            "schema's timestamp_unit to 'ms', 'us' or 'ns'",
        )
        if seconds.null_count() > values.null_count() and values.dtype == pl.String:
            seconds = _fill_dates(seconds, values)
        seconds = seconds.set(pl.Series(suspicious), 0)
    outside = ~seconds.is_between(_FIRST, _LAST).fill_null(True).to_numpy()
    add_problem(problems, name, outside, values, "a date of the years 1 to 9999")
    add_problem(problems, name, seconds.is_null().to_numpy(), values, expected)
    return seconds.fill_null(0).set(pl.Series(outside), 0).to_numpy()


def _read_moments(values: pl.Series) -> pl.Series:
    """Returns the seconds of dates and date-times; those with a time zone are stored in UTC."""
    counts = values.to_physical().cast(pl.Int64)
    if isinstance(values.dtype, pl.Date):
        return counts * 86_400
    assert isinstance(values.dtype, pl.Datetime)
    return counts // _PER_SECOND[values.dtype.time_unit]


def _read_numbers(values: pl.Series, unit: TimestampUnit) -> tuple[pl.Series, np.ndarray]:
    """Returns seconds, null where there is no integer, and which numbers are too large for seconds."""
    integers = parse_integers(values)
    none = integers.missing | integers.bad | integers.beyond
    suspicious = integers.beyond & (unit == "s")
    if unit == "s":
        suspicious |= (np.abs(integers.values) >= _LARGEST_SECONDS) & ~none
    seconds = pl.Series(integers.values // _PER_SECOND[unit])
    return (seconds.set(pl.Series(none), None) if none.any() else seconds), suspicious


def _fill_dates(seconds: pl.Series, texts: pl.Series) -> pl.Series:
    """Fills in the seconds of texts that are dates."""
    places = np.flatnonzero((seconds.is_null() & texts.is_not_null()).to_numpy())
    found = texts.gather(places)
    dates = _parse_dates(found, _USUAL)
    if dates.null_count():
        dates = dates.fill_null(_parse_iso(found.str.strip_chars()))
    for form in _DATE_FORMATS:
        if dates.null_count():
            dates = dates.fill_null(_parse_dates(found, form))
    return seconds.scatter(places, dates)


def _parse_iso(texts: pl.Series) -> pl.Series:
    """Parses ISO 8601 dates and date-times with seconds, fractions and offsets as far as they are given."""
    parts = texts.str.extract_groups(_ISO).struct.unnest()
    local = parts.select(
        pl.concat_str(
            "date", pl.lit(" "), pl.col("time").fill_null("00:00"), pl.lit(":"), pl.col("second").fill_null("00")
        )
    ).to_series()
    offsets = parts.select(
        hours=pl.col("hours").cast(pl.Int64).fill_null(0),
        minutes=pl.col("minutes").cast(pl.Int64).fill_null(0),
        direction=pl.when(pl.col("sign") == "-").then(-1).otherwise(1),
    )
    shift = offsets["direction"] * (offsets["hours"] * 3600 + offsets["minutes"] * 60)
    possible = (offsets["hours"] < 24) & (offsets["minutes"] < 60)
    seconds = _parse_dates(local, _USUAL) - shift
    return seconds.set(~possible, None)


def _parse_dates(texts: pl.Series, form: str) -> pl.Series:
    if "%H" in form and "%M" not in form:  # polars requires minutes with the hour
        texts, form = texts + " 00", form + " %M"
    return texts.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("s")
