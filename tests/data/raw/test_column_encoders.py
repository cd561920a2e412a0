"""Tests each kind of column against a plain Python twin that encodes one value at a time."""

import datetime

import numpy as np
import polars as pl
import pytest

from wukong_jax.data.raw.column_encoders import (
    encode_bag,
    encode_dense,
    encode_group,
    encode_label,
    encode_single,
    encode_weight,
)
from wukong_jax.data.raw.stable_hash import hash_texts
from wukong_jax.data.raw.timestamps import encode_timestamp
from wukong_jax.data.raw.vocabulary import ValueCodes
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn


def text(*values):
    return pl.Series("c", values, dtype=pl.String)


def bad_rows(problems):
    assert len(problems) == 1
    return np.flatnonzero(problems[0].rows).tolist()


@pytest.mark.parametrize("values", [text("1", None, "-2.5", "1e3"), pl.Series([1.0, None, -2.5, 1e3])])
def test_dense_fills_missing_before_the_transform(values):
    problems = []
    column = DenseColumn("c", transform="log1p", missing_value=4.0)
    got = encode_dense(column, values, problems)
    np.testing.assert_allclose(got, np.log1p([1.0, 4.0, 0.0, 1e3]))
    assert not problems


def test_dense_refuses_what_is_no_finite_number():
    problems = []
    encode_dense(DenseColumn("c"), text("1", "x", "inf", None, "1,5", "-inf"), problems)
    assert bad_rows(problems) == [1, 2, 4, 5]
    assert problems[0].describe(1) == "column 'c' = 'x': expected a number"


def test_stored_nan_is_missing():
    problems = []
    got = encode_dense(DenseColumn("c", missing_value=7.0), pl.Series([1.0, float("nan"), None]), problems)
    assert got.tolist() == [1.0, 7.0, 7.0]
    assert not problems


@pytest.mark.parametrize(
    ("label", "values", "expected", "mask", "bad"),
    [
        (LabelColumn("y"), text("1", "0", "-1", None, "1.0"), [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], []),
        (LabelColumn("y"), text("1", "2", "yes", "0"), [1, 0, 0, 0], [1, 1, 0, 1], [1, 2]),
        (LabelColumn("y", threshold=4.0), text("4", "3.5", None, "5"), [1, 0, 0, 1], [1, 1, 0, 1], []),
        (LabelColumn("y", threshold=4.0), text("4", "good"), [1, 0], [1, 0], [1]),
        (LabelColumn("y", positive=("a", "b")), text("a", "c", None, "b"), [1, 0, 0, 1], [1, 1, 0, 1], []),
        (LabelColumn("y", positive=("1",)), pl.Series([1, 0, None]), [1, 0, 0], [1, 1, 0], []),
        (LabelColumn("y"), pl.Series([True, False, None]), [1, 0, 0], [1, 1, 0], []),
    ],
)
def test_label_and_mask(label, values, expected, mask, bad):
    problems = []
    labels, observed = encode_label(label, values, problems)
    good = np.setdiff1d(np.arange(len(expected)), bad)
    assert labels[good].tolist() == np.array(expected)[good].tolist()
    assert observed[good].tolist() == np.array(mask)[good].tolist()
    assert (bad_rows(problems) if problems else []) == bad


def test_weight_refuses_missing_and_negative():
    problems = []
    got = encode_weight("w", text("0", "2.5", "-1", None, "x"), problems)
    assert got.tolist() == [0, 2.5, 0, 0, 0]
    assert bad_rows(problems) == [2, 3, 4]


def seconds(*parts):
    return int(datetime.datetime(*parts, tzinfo=datetime.UTC).timestamp())


@pytest.mark.parametrize(
    ("form", "values", "expected"),
    [
        (None, text("1414000000", "-5"), [1414000000, -5]),
        (None, pl.Series([3, 4], dtype=pl.Int32), [3, 4]),
        (None, text("2014-10-21", "2014-10-21 13:05:07"), [seconds(2014, 10, 21), seconds(2014, 10, 21, 13, 5, 7)]),
        (None, text("2014-10-21T13:05:07", "7"), [seconds(2014, 10, 21, 13, 5, 7), 7]),
        (None, pl.Series([datetime.date(1970, 1, 2)]), [86400]),
        (None, pl.Series([datetime.datetime(1970, 1, 1, 0, 1)]), [60]),
        ("%y%m%d%H", text("14102123"), [seconds(2014, 10, 21, 23)]),
        ("%d.%m.%Y", text("01.02.1999"), [seconds(1999, 2, 1)]),
    ],
)
def test_timestamp_is_seconds(form, values, expected):
    problems = []
    got = encode_timestamp("t", form, values, problems)
    assert got.dtype == np.int64
    assert got.tolist() == expected
    assert not problems


def test_timestamp_that_cannot_be_read_is_refused():
    for form, values in ((None, text("5", "soon", None)), ("%y%m%d%H", text("14102123", "14102199", None))):
        problems = []
        encode_timestamp("t", form, values, problems)
        assert bad_rows(problems) == [1, 2]


def test_group_is_stable_and_never_negative():
    got = encode_group("g", text("u1", "u2", "u1", None, ""), [])
    assert got[0] == got[2] != got[1]
    assert got[3] == got[4]
    assert encode_group("g", pl.Series([i for i in range(1000)]), []).min() >= 0
    assert got.dtype == np.int32


def single(column, values, coder=None):
    problems = []
    return encode_single(column, column, values, coder, problems).tolist(), problems


def test_vocabulary_column_keeps_missing_as_a_value():
    got, _ = single(CategoricalColumn("c"), text("a", None, "", "a"), ValueCodes())
    assert got == [0, 1, 1, 0]


def test_hash_column_equals_twin_and_salt_changes_collisions():
    values = text(*[f"v{i}" for i in range(500)], None)
    columns = [CategoricalColumn("c", encoding="hash", rows=11, salt=salt) for salt in (0, 1)]
    for column in columns:
        twin = [1 + int(h) % 10 for h in hash_texts(values.fill_null(""), column.salt)]
        assert single(column, values)[0] == twin
        assert set(twin) == set(range(1, 11))
    assert single(columns[0], values)[0] != single(columns[1], values)[0]


def test_identity_column_shifts_by_one_and_keeps_0_for_unknown():
    column = CategoricalColumn("c", encoding="identity", rows=4)
    got, problems = single(column, text("0", "2", "3", "-1", None, "x"))
    assert got[:5] == [1, 3, 0, 0, 0]
    assert bad_rows(problems) == [5]


def test_discretised_numbers_are_values():
    codes = ValueCodes()
    column = CategoricalColumn("c", transform="bucketise", boundaries=(0.0, 10.0))
    got, problems = single(column, text("-5", "0", "9.5", "1e9", None), codes)
    assert [codes.texts()[code] for code in got] == ["0", "1", "1", "2", ""]
    assert not problems
    identity = CategoricalColumn("c", transform="criteo_log", encoding="identity", rows=100)
    # floor(ln(1000)^2) = 47 and 1 stays 1; ids follow from 1.
    got, problems = single(identity, text("1000", "1", "x"))
    assert got[:2] == [48, 2]
    assert bad_rows(problems) == [2]


def bag_twin(rows, length, latest):
    slots = []
    for row in rows:
        parts = [part for part in (row or "").split("|") if part]
        kept = parts[max(len(parts) - length, 0) :] if latest else parts[:length]
        slots.append([int(part) + 1 for part in kept] + [-1] * (length - len(kept)))
    lost = sum(max(len([p for p in (row or "").split("|") if p]) - length, 0) for row in rows)
    return np.array(slots).T.tolist(), lost


@pytest.mark.parametrize("latest", [False, True])
@pytest.mark.parametrize("length", [1, 3, 5])
@pytest.mark.parametrize("as_lists", [False, True])
def test_bag_equals_twin(latest, length, as_lists):
    rows = ["1|2|3|4", "", None, "5", "6||7|", "|", "1|1", "9|8|7|6|5|4"]
    column = CategoricalColumn("c", encoding="identity", rows=20, separator="|", max_length=length)
    values = text(*rows)
    if as_lists:
        values = pl.Series([None if r is None else [int(p) for p in r.split("|") if p] for r in rows])
    problems = []
    slots, lost = encode_bag(column, column, values, None, latest, problems)
    assert (slots.tolist(), lost) == bag_twin(rows, length, latest)
    assert not problems


def test_bag_of_nothing_and_bad_bag():
    column = CategoricalColumn("c", encoding="identity", rows=20, separator="|", max_length=2)
    problems = []
    slots, lost = encode_bag(column, column, text("", None), None, False, problems)
    assert slots.tolist() == [[-1, -1], [-1, -1]]
    assert lost == 0
    encode_bag(column, column, text("1|2", "3|x", "4"), None, False, problems)
    assert bad_rows(problems) == [1]
