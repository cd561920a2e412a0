"""Tests that every spelling of a moment gives the same seconds, against Python's datetime."""

import datetime
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.raw.timestamps import encode_timestamp

UTC = datetime.UTC
MOMENTS = st.datetimes(datetime.datetime(1, 1, 3), datetime.datetime(9999, 12, 29))


def encode(values, form=None, unit="s"):
    """Returns the seconds and, for each row, what was expected of a value that cannot be read (else None)."""
    problems = []
    seconds = encode_timestamp("t", form, values, problems, unit)
    expected = [None] * len(values)
    for problem in reversed(problems):
        for row in np.flatnonzero(problem.rows):
            expected[row] = problem.expected
    return seconds.tolist(), expected


@st.composite
def iso_texts(draw):
    """Draws a text as pandas, Python, JavaScript, Java or a database writes it, and its seconds."""
    moment = draw(MOMENTS)
    detail = draw(st.sampled_from(["day", "minute", "second", "fraction"]))
    if detail == "day":
        moment = moment.replace(hour=0, minute=0, second=0)
        return moment.strftime("%Y-%m-%d").zfill(10), moment.replace(tzinfo=UTC, microsecond=0)
    text = moment.isoformat(draw(st.sampled_from("T ")), "minutes" if detail == "minute" else "seconds")
    moment = moment.replace(second=0 if detail == "minute" else moment.second, microsecond=0)
    if detail == "fraction":
        text += "." + draw(st.text("0123456789", min_size=1, max_size=9))
    zone = draw(st.sampled_from(["", "Z", " UTC", "offset"]))
    if zone != "offset":
        return text + zone, moment.replace(tzinfo=UTC)
    minutes = draw(st.integers(-23 * 60 - 59, 23 * 60 + 59))
    colon = draw(st.sampled_from([":", ""]))
    text += f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{colon}{abs(minutes) % 60:02d}"
    return text, moment.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=minutes)))


def seconds_of(moment):
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=UTC)) // datetime.timedelta(seconds=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(iso_texts(), min_size=1), st.sampled_from(["", " "]))
def test_iso_texts_are_the_seconds_of_python(drawn, blank):
    values = pl.Series([blank + text + blank for text, _ in drawn])
    assert encode(values) == ([seconds_of(moment) for _, moment in drawn], [None] * len(drawn))


@settings(max_examples=100, deadline=None)
@given(MOMENTS, st.sampled_from([None, "UTC", "Europe/Berlin", "America/New_York"]))
def test_dates_and_date_times_of_any_unit_and_zone(moment, zone):
    expected = seconds_of(moment.replace(tzinfo=UTC))
    for unit in ("ms", "us", "ns") if 1700 < moment.year < 2200 else ("ms", "us"):
        values = pl.Series([moment], dtype=pl.Datetime(unit))
        values = values if zone is None else values.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        assert encode(values) == ([expected], [None])
    day = datetime.datetime.combine(moment.date(), datetime.time(), UTC)
    assert encode(pl.Series([moment.date()])) == ([seconds_of(day)], [None])


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**11) + 1, 10**11 - 1), st.sampled_from(["s", "ms", "us", "ns"]))
def test_whole_numbers_are_counted_in_the_unit(number, unit):
    expected = number // {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    if expected < -62135596800:
        return
    for values in ([number], [float(number)], [str(number)], [f"{number}.0"], [f" {number} "]):
        assert encode(pl.Series(values), unit=unit) == ([expected], [None])


@pytest.mark.parametrize("number", [1_700_000_000_000, 10**11, -(10**11), 1_700_000_000_000_000_000, 10**30])
def test_what_looks_like_milliseconds_is_refused(number):
    kinds = [pl.Series([str(number)]), pl.Series([float(number)]), pl.Series([number], dtype=pl.Int128)]
    for values in kinds:
        _, (expected,) = encode(values)
        assert "set the schema's timestamp_unit to 'ms'" in expected
    if abs(number) < 10**14:
        assert encode(pl.Series([number]), unit="ms") == ([number // 1000], [None])


@pytest.mark.parametrize(
    "value",
    [
        *(
            "2020-02-30",
            "2020-01-01 25:00",
            "2020-01-01 12:60:00",
            "2020-01-01T12:00:00+24:00",
            "2020-01-01T12:00+0260",
        ),
        *("2020-01-01Z", "20200101T000000", "2020-01-01T", "2020-01-01 12:00:00.", "1.5", "nan", "inf", ""),
        *(
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:30:00-01:00",
            "0000-01-01",
            "10000-01-01",
            "+2020-01-01T00:00:00Z",
        ),
        *(math.nan, math.inf, 1.5),
    ],
)
def test_what_is_no_moment_is_refused_and_its_neighbour_read(value):
    neighbour = 5.0 if isinstance(value, float) else "1970-01-01T00:00:05Z"
    seconds, expected = encode(pl.Series([value, neighbour]))
    assert seconds == [0, 5]
    assert expected[0] is not None
    assert expected[1] is None


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_numbers_beyond_the_year_9999_are_refused(unit):
    last = {"ms": 253402300799999, "us": 253402300799999999, "ns": 2**63 - 1}[unit]
    assert encode(pl.Series([last]), unit=unit)[1] == [None]
    assert encode(pl.Series([last + 1], dtype=pl.UInt64), unit=unit)[1] != [None]


def test_a_format_reads_what_integers_and_floats_write():
    for values in ([14102123, None], [14102123.0, math.nan], ["14102123", None], ["14102123.0", ""]):
        seconds, expected = encode(pl.Series(values), "%y%m%d%H")
        assert seconds[0] == seconds_of(datetime.datetime(2014, 10, 21, 23, tzinfo=UTC))
        assert expected == [None, "a date of the form '%y%m%d%H'"]
