"""Tests that a value means the same whatever type or text it arrives as, against Python's own numbers and texts."""

import datetime
import decimal
import math
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.raw.canonical_values import (
    canonical_text,
    canonicalise_texts,
    parse_integers,
    parse_numbers,
    to_texts,
)

INTEGERS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64]


def forms_of(values):
    """Returns the canonical texts of values, None where missing, and the rows that are no exact id."""
    texts, inexact = to_texts(values)
    return canonicalise_texts(texts).to_list(), [] if inexact is None else np.flatnonzero(inexact).tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**53) + 1, 2**53 - 1)), min_size=1))
def test_an_integer_is_one_text_whatever_it_comes_as(numbers):
    expected = [None if number is None else str(number) for number in numbers]
    spellings = {
        "floats": pl.Series([None if n is None else float(n) for n in numbers], dtype=pl.Float64),
        "NaN": pl.Series([math.nan if n is None else float(n) for n in numbers], dtype=pl.Float64),
        "decimals": pl.Series([None if n is None else decimal.Decimal(n) for n in numbers], dtype=pl.Decimal(38, 3)),
        "texts": pl.Series(expected, dtype=pl.String),
        "texts of floats": pl.Series([None if n is None else f"{n}.0" for n in numbers], dtype=pl.String),
        "categories": pl.Series(expected, dtype=pl.Categorical),
    }
    for kind in INTEGERS:
        if all(number is None or pl.Series([number]).cast(kind, strict=False).item() == number for number in numbers):
            spellings[str(kind)] = pl.Series(numbers, dtype=kind)
    for name, values in spellings.items():
        assert forms_of(values) == (expected, []), name


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=64), min_size=1), st.sampled_from([pl.Float64, pl.Float32]))
def test_floats_are_the_texts_that_python_writes(numbers, kind):
    values = pl.Series(numbers).cast(kind)
    texts, inexact = to_texts(values)
    limit = 2.0**53 if kind == pl.Float64 else 2.0**24
    for number, text, no_id in zip(values.to_numpy(), texts, inexact, strict=True):
        if np.isnan(number) or abs(number) >= limit:
            assert text is None
            assert no_id == (not np.isnan(number))
        elif number == int(number):
            assert text == str(int(number))
        else:
            assert text == repr(float(str(number)))  # NumPy's digits of the type, in Python's form
            assert pl.Series([text]).cast(kind).item() == pl.Series([number], dtype=kind).item()


# Texts near the pattern of an integer with a zero fraction, and any others.
TEXTS = st.one_of(
    st.from_regex(r"-?[0-9]{1,4}\.?0{0,3}", fullmatch=True),
    st.sampled_from(["True", "TRUE", "true", "tRue", "False", "FALSE", "T", "F.0"]),
    st.sampled_from(["+7.0", " 7.0", "7.0 ", "-0.0", "-00.0", "1e5", "\u0667.0"]),
    st.text(),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.none(), TEXTS)))
def test_texts_change_only_as_the_pattern_says(texts):
    def twin(text):
        if text in ("True", "TRUE", "False", "FALSE"):
            return text.lower()
        found = re.fullmatch(r"(-?(?:0|[1-9][0-9]*))\.0+", text, flags=re.ASCII)
        return str(int(found[1])) if found else text

    expected = [None if text is None else twin(text) for text in texts]
    values = pl.Series(texts, dtype=pl.String)
    assert canonicalise_texts(values).to_list() == expected
    assert values.to_list() == texts  # untouched, as it may be a column of the user's frame
    assert [None if text is None else canonical_text(text) for text in texts] == expected


def test_the_canonical_form_of_a_canonical_form_is_itself():
    forms = ["7", "-3.5", "true", "2020-01-01 00:00:00", "", "0", "007.0"]
    assert [canonical_text(form) for form in forms] == forms


@settings(max_examples=100, deadline=None)
@given(
    st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)),
    st.sampled_from(["ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Europe/Berlin", "Asia/Tokyo"]),
)
def test_dates_are_iso_texts_of_any_unit_and_zone(moment, unit, zone):
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    text = moment.isoformat(" ")
    text = text.rstrip("0") if "." in text else text
    values = pl.Series([moment, None], dtype=pl.Datetime(unit))
    if zone is not None:
        values, text = values.dt.replace_time_zone("UTC").dt.convert_time_zone(zone), f"{text}+00:00"
    assert forms_of(values) == ([text, None], [])
    assert forms_of(pl.Series([moment.date()])) == ([moment.date().isoformat()], [])


def test_booleans_and_columns_of_nothing():
    assert forms_of(pl.Series([True, False, None])) == (["true", "false", None], [])
    assert forms_of(pl.Series([None, None])) == ([None, None], [])
    assert forms_of(pl.Series([], dtype=pl.String)) == ([], [])
    assert forms_of(pl.Series([datetime.time(12, 0, 0, 500)])) == (["12:00:00.0005"], [])


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["", " ", "\t", "  "]), st.integers(0, 3))
def test_a_number_is_one_number_whatever_it_comes_as(number, blank, digits):
    rounded = round(number, digits) if abs(number) < 1e15 else number
    plus = "" if repr(rounded).startswith("-") else "+"
    for values in (
        pl.Series([rounded]),
        pl.Series([f"{blank}{rounded!r}{blank}"]),
        pl.Series([f"{plus}{rounded!r}", "x"]),
    ):
        parsed, bad = parse_numbers(values)
        assert parsed[0] == rounded
        assert not bad[0]
    if rounded == int(rounded):
        parsed, bad = parse_numbers(pl.Series([str(int(rounded))]))
        assert (parsed[0], bad[0]) == (rounded, False)


def test_numbers_that_are_none():
    parsed, bad = parse_numbers(pl.Series(["1", "nan", "inf", "x", "", " ", None, "1 2", "true"]))
    assert bad.tolist() == [False, False, True, True, True, True, False, True, True]
    assert np.isnan(parsed[1:]).all()
    assert parse_numbers(pl.Series([True, False, None]))[0][:2].tolist() == [1.0, 0.0]
    assert parse_numbers(pl.Series([2**64 - 1], dtype=pl.UInt64))[0].tolist() == [2.0**64]


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**70), 2**70))
def test_an_integer_is_read_from_any_type(number):
    spelled = [pl.Series([f" {number}"]), pl.Series([f"{number}.0", "1"]), pl.Series([number], dtype=pl.Int128)]
    spelled.append(pl.Series([decimal.Decimal(number)], dtype=pl.Decimal(38, 2)))
    if float(number) == number:
        spelled.append(pl.Series([float(number)]))
    if 0 <= number < 2**64:
        spelled.append(pl.Series([number], dtype=pl.UInt64))
    for values in spelled:
        integers = parse_integers(values)
        assert not integers.bad[0]
        assert not integers.missing[0]
        assert integers.beyond[0] == (not -(2**63) <= number < 2**63)
        assert integers.values[0] == (0 if integers.beyond[0] else number)


@pytest.mark.parametrize("values", [[3.7, math.inf], ["3.7", "1e3", "", "x", "7.", "0x1"], [decimal.Decimal("3.7")]])
def test_what_is_no_integer_is_bad(values):
    assert parse_integers(pl.Series(values)).bad.all()
    assert parse_integers(pl.Series([2.0**24 + 2], dtype=pl.Float32)).bad.all()  # 2^24 + 1 is the same float
