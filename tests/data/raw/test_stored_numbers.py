"""Tests that every number is checked where it is cast to the type in which it is stored."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.column_encoders import encode_dense, encode_single, encode_weight
from wukong_jax.data.raw.new_rows import encode_frame, read_encoded_rows
from wukong_jax.data.raw.numeric_transforms import RunningMoments, standardise, to_float32
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.raw.vocabulary import ValueCodes
from wukong_jax.errors import UserError
from wukong_jax.schema import (
    FLOAT32_MAX,
    CategoricalColumn,
    DenseColumn,
    LabelColumn,
    Schema,
    Source,
    Split,
    load_schema,
)

TRANSFORMS = ("none", "log1p", "criteo_log", "standardise")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(), min_size=1))
def test_the_cast_equals_numpy_where_float32_holds_the_number(numbers):
    values = np.array(numbers)
    stored, beyond = to_float32(values)
    with np.errstate(over="ignore"):
        twin = values.astype(np.float32)
    np.testing.assert_array_equal(beyond, ~np.isfinite(twin))
    np.testing.assert_array_equal(stored, np.where(beyond, np.float32(0), twin))
    assert stored.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(), min_size=1), st.sampled_from(TRANSFORMS), st.booleans())
def test_no_dense_value_is_stored_infinite_or_in_silence_wrong(numbers, transform, as_text):
    values = pl.Series([repr(number) for number in numbers]) if as_text else pl.Series(numbers)
    problems = []
    with np.errstate(all="raise", under="ignore"):
        got = encode_dense(DenseColumn("d", transform=transform), values, problems)
    assert np.isfinite(got).all()
    assert (np.abs(got) <= FLOAT32_MAX).all()
    bad = np.any([problem.rows for problem in problems], axis=0) if problems else np.zeros(len(numbers), bool)
    for number, is_bad in zip(numbers, bad, strict=True):
        if math.isnan(number) or abs(number) <= FLOAT32_MAX:
            assert not is_bad
        elif math.isinf(number) or transform in ("none", "standardise"):
            assert is_bad


@pytest.mark.parametrize(
    ("weight", "good"),
    [(0, True), (1e-37, True), (FLOAT32_MAX, True), (1e39, False), (1e-50, False), (1e-40, False), (-1, False)],
)
def test_weights_that_float32_cannot_hold_are_refused(weight, good):
    for values in (pl.Series([float(weight), 1.0]), pl.Series([repr(weight), "1"])):
        problems = []
        got = encode_weight("w", values, problems)
        assert np.isfinite(got).all()
        assert [problem.rows.tolist() for problem in problems] == ([] if good else [[True, False]])


def test_a_step_of_a_transform_that_no_integer_holds_is_refused():
    problems = []
    column = CategoricalColumn("c", transform="criteo_log")
    encode_single(column, column, pl.Series([-1e300, 1e300, -3.0]), ValueCodes(), problems)
    assert [problem.rows.tolist() for problem in problems] == [[True, False, False]]


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-FLOAT32_MAX, FLOAT32_MAX, allow_subnormal=False),
    st.integers(1, 200),
    st.lists(st.integers(0, 200), max_size=4),
)
def test_a_constant_column_has_deviation_0_however_it_is_cut(value, rows, cuts):
    moments = RunningMoments(2)
    values = np.stack([np.full(rows, value), np.linspace(0, 1, rows)], axis=1)
    for part in np.split(values, sorted(min(cut, rows) for cut in cuts)):
        moments.add(part)
    mean, deviation = moments.column(0)
    assert deviation == 0.0
    assert mean == pytest.approx(value, rel=1e-12)
    # float64 sums of up to 200 numbers of size 1.
    assert moments.column(1)[1] == pytest.approx(np.std(np.linspace(0, 1, rows)), abs=1e-12)
    assert standardise(np.array([[value * 1.5]]), np.array([mean]), np.array([deviation])).item() == 0.0


def test_rounding_noise_is_no_deviation_but_a_small_spread_is():
    noisy = RunningMoments(3)
    tenth = np.where(np.arange(1000) % 2 == 0, 0.1, np.nextafter(0.1, 1))
    noisy.add(np.stack([tenth, 1.6e9 + np.arange(1000) * 1e-2, np.arange(1000) * 1e-30], axis=1))
    assert noisy.column(0)[1] == 0.0
    assert noisy.column(1)[1] == pytest.approx(np.std(np.arange(1000) * 1e-2), rel=1e-6)
    assert noisy.column(2)[1] == pytest.approx(np.std(np.arange(1000)) * 1e-30, rel=1e-9)


SCHEMA = Schema(
    "numbers",
    Source("csv"),
    (LabelColumn("y"),),
    dense=(DenseColumn("d", transform="standardise"), DenseColumn("e")),
    categorical=(CategoricalColumn("c"),),
    split=Split(by="order", validation_fraction=0.0, test_fraction=0.25),
    weight="w",
)


def write(path, d, e, w):
    rows = len(d)
    pl.DataFrame({"d": d, "e": e, "w": w, "c": ["a"] * rows, "y": [0, 1] * (rows // 2)}).write_csv(path)
    return path


def test_a_test_row_beyond_float32_when_standardised_is_named_or_skipped(tmp_path):
    """The training deviation is 1e-20, so 1e20 becomes 1e40."""
    file = write(tmp_path / "a.csv", ["0", "2e-20"] * 3 + ["1e20", "1e-20"], ["1"] * 8, ["1"] * 8)
    message = r"a\.csv, line 8, column 'd' = 1e\+20: beyond float32 when standardised by mean 1e-20 and deviation 1e-20"
    with pytest.raises(UserError, match=message):
        prepare_data(SCHEMA, [file], tmp_path / "out")
    report = prepare_data(SCHEMA, [file], tmp_path / "out", on_bad_row="skip")
    assert (report["rows"]["test"], report["skipped_rows"]) == (1, 1)
    resolved = load_schema(tmp_path / "out" / "schema.json")
    rows = {"d": [1e20], "e": [0.0], "c": ["a"]}
    with pytest.raises(UserError, match=r"rows, line 1, column 'd' = 1e\+20: beyond float32"):
        list(encode_frame(resolved, tmp_path / "out" / "vocabulary", pl.DataFrame(rows)))


@pytest.mark.parametrize("column", ["d", "e", "w"])
def test_a_number_beyond_float32_is_named_when_preparing_and_scoring(tmp_path, column):
    good = {name: ["1", "2"] * 4 for name in ("d", "e", "w")}
    prepare_data(SCHEMA, [write(tmp_path / "good.csv", **good)], tmp_path / "out")
    bad = good | {column: ["1", "2", "3.5e38", *["1"] * 5]}
    with pytest.raises(
        UserError, match=rf"bad\.csv, line 4, column '{column}' = '3\.5e\+38': expected .*3\.40282e\+38"
    ):
        prepare_data(SCHEMA, [write(tmp_path / "bad.csv", **bad)], tmp_path / "bad")
    report = prepare_data(SCHEMA, [tmp_path / "bad.csv"], tmp_path / "bad", on_bad_row="skip")
    assert report["skipped_rows"] == 1
    resolved = load_schema(tmp_path / "out" / "schema.json")
    vocabulary = tmp_path / "out" / "vocabulary"
    with pytest.raises(UserError, match=rf"bad\.csv, line 4, column '{column}' = '3\.5e\+38': expected"):
        list(read_encoded_rows(resolved, vocabulary, tmp_path / "bad.csv", labels_required=True))
    if column != "w":
        frame = pl.DataFrame({name: [float(text) for text in bad[name]] for name in ("d", "e")})
        with pytest.raises(UserError, match=rf"rows, line 3, column '{column}' = '3\.5e\+38': expected"):
            list(encode_frame(resolved, vocabulary, frame.with_columns(c=pl.lit("a"))))


def test_large_numbers_give_finite_moments_and_no_nan_in_json(tmp_path):
    large = ["3e38", "-3e38"] * 4
    prepare_data(SCHEMA, [write(tmp_path / "a.csv", large, large, ["3e38"] * 8)], tmp_path / "out")
    for name in ("schema.json", "report.json"):
        text = (tmp_path / "out" / name).read_text()
        json.loads(text, parse_constant=pytest.fail)
    resolved = load_schema(tmp_path / "out" / "schema.json")
    assert resolved.dense[0].standard_deviation == pytest.approx(3e38, rel=1e-9)
    blocks = open_row_blocks(tmp_path / "out", "train")
    assert np.isfinite(blocks.read(0)["dense"]).all()
