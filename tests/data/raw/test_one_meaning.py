"""Tests that rows get the same ids, labels and numbers from a CSV or Parquet file, a frame or a dict of any types."""

import csv
import dataclasses
import decimal
import itertools
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.column_types import check_column_types
from wukong_jax.data.raw.new_rows import build_frame, encode_frame, read_encoded_rows
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, load_schema

SCHEMA = Schema(
    name="one_meaning",
    source=Source(format="csv"),
    split=Split(by="order", validation_fraction=0.0, test_fraction=0.0),
    labels=(LabelColumn("click", positive=("1",)), LabelColumn("stars", threshold=4.0)),
    dense=(DenseColumn("amount", missing_value=-7.0),),
    categorical=(
        CategoricalColumn("item"),
        CategoricalColumn("user", "hash", rows=1000),
        CategoricalColumn("shelf", "identity", rows=6),
        CategoricalColumn("tags", separator="|", max_length=3),
        CategoricalColumn("places", "identity", rows=6, separator="|", max_length=2),
    ),
    domain="site",
    timestamp="time",
    group="who",
)
NUMBERS = ("stars", "amount", "item", "user", "shelf", "who", "site", "time")  # columns of integers
MAY_MISS = ("stars", "amount", "item", "user", "shelf", "who", "click", "tags", "places")
ROWS = 12
FEATURES = ("ids", "dense", "domain")  # what frames are read for

IDS = st.one_of(st.integers(-3, 12), st.integers(-(2**53) + 1, 2**53 - 1))
ROW = {
    **dict.fromkeys(("item", "user", "who"), IDS),
    **{"shelf": st.integers(-2, 9), "site": st.integers(0, 2), "stars": st.integers(0, 5)},
    **{"amount": st.integers(-(10**9), 10**9), "time": st.integers(0, 10**10), "click": st.integers(0, 1)},
    **dict.fromkeys(("tags", "places"), st.lists(st.integers(0, 7), max_size=4)),
}
SPELLINGS = {
    "integer": lambda values: pl.Series(values, dtype=pl.Int64),
    "wide": lambda values: pl.Series(values, dtype=pl.Int128),
    "float": lambda values: pl.Series([None if v is None else float(v) for v in values], dtype=pl.Float64),
    "NaN": lambda values: pl.Series([math.nan if v is None else float(v) for v in values], dtype=pl.Float64),
    "decimal": lambda values: pl.Series([None if v is None else decimal.Decimal(v) for v in values]).cast(
        pl.Decimal(38, 2)
    ),
    "text": lambda values: pl.Series([None if v is None else str(v) for v in values], dtype=pl.String),
    "text of a float": lambda values: pl.Series([None if v is None else f"{v}.0" for v in values], dtype=pl.String),
    "category": lambda values: pl.Series([None if v is None else str(v) for v in values], dtype=pl.Categorical),
}
CLICKS = {
    "boolean": lambda values: pl.Series([None if v is None else bool(v) for v in values], dtype=pl.Boolean),
    "True": lambda values: pl.Series([None if v is None else str(bool(v)) for v in values], dtype=pl.String),
    "int8": lambda values: pl.Series(values, dtype=pl.Int8),
}
BAGS = {
    "delimited": lambda bags: pl.Series([None if b is None else "|".join(map(str, b)) for b in bags], dtype=pl.String),
    "delimited floats": lambda bags: pl.Series(
        [None if b is None else "|".join(f"{v}.0" for v in b) for b in bags], dtype=pl.String
    ),
    "integers": lambda bags: pl.Series(bags, dtype=pl.List(pl.Int32)),
    "floats": lambda bags: pl.Series(
        [None if b is None else [float(v) for v in b] + [math.nan, None] for b in bags], dtype=pl.List(pl.Float64)
    ),
    "texts": lambda bags: pl.Series(
        [None if b is None else [f"{v}.0" for v in b] + [""] for b in bags], dtype=pl.List(pl.String)
    ),
    "empty": lambda bags: pl.Series([b or [] for b in bags], dtype=pl.List(pl.UInt64)),
}


@st.composite
def tables(draw):
    """Draws rows as Python's own values, and a spelling for every column."""
    columns = {}
    for name, values in ROW.items():
        values = st.one_of(st.none(), values) if name in MAY_MISS else values
        columns[name] = draw(st.lists(values, min_size=ROWS, max_size=ROWS))
    kinds = {name: draw(st.sampled_from(sorted(SPELLINGS))) for name in NUMBERS}
    kinds |= {"click": draw(st.sampled_from(sorted(SPELLINGS | CLICKS)))}
    kinds |= {name: draw(st.sampled_from(sorted(BAGS))) for name in ("tags", "places")}
    return columns, kinds


def spell(columns, kinds):
    return pl.DataFrame({name: (SPELLINGS | CLICKS | BAGS)[kinds[name]](values) for name, values in columns.items()})


def write_plain_csv(path, columns):
    """Writes integers as a person would."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("|".join(map(str, v)) if isinstance(v, list) else "" if v is None else v for v in row)
    return path


def join_blocks(parts):
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_equal(got, expected, names=None):
    for name in names or expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables())
def test_rows_mean_the_same_in_files_frames_and_dicts_of_any_types(tmp_path_factory, drawn):
    columns, kinds = drawn
    folder = tmp_path_factory.mktemp("meaning")
    plain = write_plain_csv(folder / "plain.csv", columns)
    spelled = spell(columns, kinds)
    spelled.write_parquet(folder / "spelled.parquet")
    prepare_data(SCHEMA, [plain], folder / "csv")
    parquet = dataclasses.replace(SCHEMA, source=Source(format="parquet"))
    prepare_data(parquet, [folder / "spelled.parquet"], folder / "parquet")
    blocks = {name: open_row_blocks(folder / name, "train") for name in ("csv", "parquet")}
    expected = join_blocks(blocks["csv"].read(i) for i in range(blocks["csv"].num_blocks))
    assert_equal(join_blocks(blocks["parquet"].read(i) for i in range(blocks["parquet"].num_blocks)), expected)

    resolved, vocabulary = load_schema(folder / "csv" / "schema.json"), folder / "csv" / "vocabulary"
    for rows in (spelled, {name: spelled[name].to_list() for name in spelled.columns}):
        assert_equal(join_blocks(encode_frame(resolved, vocabulary, build_frame(rows))), expected, FEATURES)
    stored = load_schema(folder / "parquet" / "schema.json")
    read = read_encoded_rows(stored, folder / "parquet" / "vocabulary", folder / "spelled.parquet", True)
    assert_equal(join_blocks(read), expected)


def scores_of(tmp_path, name, values, **changes):
    """Prepares rows of one categorical column `c` with the given values; returns its ids."""
    frame = pl.DataFrame({"c": values, "y": [0, 1] * (len(values) // 2) + [0] * (len(values) % 2)})
    path = Path(tmp_path) / f"{name}.parquet"
    frame.write_parquet(path)
    column = CategoricalColumn("c", **changes)
    schema = dataclasses.replace(
        SCHEMA, source=Source("parquet"), labels=(LabelColumn("y"),), dense=(), categorical=(column,)
    )
    schema = dataclasses.replace(schema, domain=None, timestamp=None, group=None)
    prepare_data(schema, [path], path.with_suffix(""))
    blocks = open_row_blocks(path.with_suffix(""), "train")
    return join_blocks(blocks.read(i) for i in range(blocks.num_blocks))["ids"][:, 0].tolist()


def test_unsigned_hashes_of_64_bits_are_exact(tmp_path):
    large = [2**64 - 1, 2**64 - 2, 2**63, 2**53 + 1, 2**53]
    for changes in ({}, {"encoding": "hash", "rows": 10**6}):
        ids = scores_of(tmp_path, f"u64{len(changes)}", pl.Series(large, dtype=pl.UInt64), **changes)
        assert len(set(ids)) == 5
        assert ids == scores_of(tmp_path, f"text{len(changes)}", pl.Series([str(v) for v in large]), **changes)


def test_nan_is_missing_but_the_text_is_a_value(tmp_path):
    assert scores_of(tmp_path, "float", pl.Series([1.5, math.nan, None, 1.5])) == [2, 1, 1, 2]
    assert len(set(scores_of(tmp_path, "text", pl.Series(["NaN", None, "NaN", None])))) == 2
    assert scores_of(tmp_path, "nothing", pl.Series([None, None, None])) == [1, 1, 1]


@pytest.mark.parametrize("value", [2.0**53, -(2.0**60), math.inf])
@pytest.mark.parametrize("changes", [{}, {"encoding": "hash", "rows": 9}], ids=["vocabulary", "hash"])
def test_a_float_that_is_no_exact_id_is_a_bad_row(tmp_path, value, changes):
    with pytest.raises(UserError, match=r"a\.parquet, line 3, column 'c' = .*: expected an exact id"):
        scores_of(tmp_path, "a", pl.Series([1.0, 2.0, value]), **changes)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (pl.List(pl.Int64), {}, r"type List\(Int64\); the schema has one value per row here; give .* `separator`"),
        (
            pl.Int64,
            {"separator": "|"},
            r"type Int64; a bag needs lists of texts or numbers, or texts with the separator",
        ),
        (pl.List(pl.Duration), {"separator": "|"}, "a bag needs lists of texts or numbers"),
        (pl.List(pl.List(pl.Int8)), {"separator": "|"}, "a bag needs lists"),
        (pl.List(pl.Date), {"separator": "|", "encoding": "identity", "rows": 9}, "a bag needs lists of numbers"),
        (pl.Struct({f"field {i}": pl.Int8 for i in range(99)}), {}, r"type Struct.*\.\.\.; the schema wants a text or"),
        (pl.Binary, {}, "type Binary; the schema wants a text or a number"),
        (pl.Date, {"encoding": "identity", "rows": 9}, "type Date; the schema wants a number"),
        (pl.Datetime("ms"), {"transform": "criteo_log"}, "the schema wants a number"),
    ],
)
def test_a_type_that_the_schema_cannot_read_is_one_line(kind, changes, words):
    schema = Schema("t", Source("parquet"), (LabelColumn("y"),), categorical=(CategoricalColumn("c", **changes),))
    with pytest.raises(UserError, match=words) as error:
        check_column_types(Path("a.parquet"), pl.Schema({"y": pl.Int64, "c": kind}), schema)
    assert str(error.value).startswith("a.parquet, column 'c': has type")
    assert len(str(error.value)) < 250
    with pytest.raises(UserError, match="rows, column 'c': has type"):
        list(encode_frame(schema, Path("nowhere"), pl.DataFrame(schema={"c": kind})))


def test_dates_are_no_numbers_and_booleans_no_moments():
    wanted = {"dense": (DenseColumn("c"),), "weight": "w", "timestamp": "t"}
    schema = Schema("t", Source("parquet"), (LabelColumn("y"),), **wanted)
    good = {"c": pl.Boolean(), "w": pl.Decimal(9, 2), "t": pl.Date(), "y": pl.Boolean()}
    check_column_types(Path("a.parquet"), good, schema)
    for name, kind in {"c": pl.Date(), "w": pl.Datetime("us"), "t": pl.Boolean(), "y": pl.Time()}.items():
        with pytest.raises(UserError, match=f"column '{name}': has type"):
            check_column_types(Path("a.parquet"), good | {name: kind}, schema)


def test_a_list_of_another_length_each_file_and_a_fixed_size_array_are_bags(tmp_path):
    bags = pl.Series([[1.0, 2.0], [2.0, math.nan]], dtype=pl.Array(pl.Float64, 2))
    (columns,) = encode_frame(*_prepared_bag(tmp_path), pl.DataFrame({"c": bags}))
    (texts,) = encode_frame(*_prepared_bag(tmp_path), pl.DataFrame({"c": ["1|2", "2"]}))
    assert columns["ids"].tolist() == texts["ids"].tolist() == [[2, 1], [1, -1]]


def _prepared_bag(tmp_path):
    folder = tmp_path / "bag"
    if not folder.exists():
        (tmp_path / "bag.csv").write_text("c,y\n2|1,0\n2,1\n")
        schema = dataclasses.replace(
            SCHEMA, labels=(LabelColumn("y"),), dense=(), domain=None, timestamp=None, group=None
        )
        schema = dataclasses.replace(schema, categorical=(CategoricalColumn("c", separator="|", max_length=2),))
        prepare_data(schema, [tmp_path / "bag.csv"], folder)
    return load_schema(folder / "schema.json"), folder / "vocabulary"


POSITIVE = {"1": "1", "1.0": "1", "true": "1", "True": "1", "0": "0", "False": "0", "2": "2", "2.0": "2", "yes": "yes"}


@pytest.mark.parametrize("text", POSITIVE)
def test_positive_means_the_same_for_every_type(tmp_path, text):
    values = [0, 1, 1, None, 0, 2]
    kinds = {name: SPELLINGS[name](values) for name in SPELLINGS}
    for kind in CLICKS:
        if text not in ("2", "2.0"):
            kinds[kind] = CLICKS[kind]([value if value != 2 else None for value in values])
    for name, series in kinds.items():
        pl.DataFrame({"c": ["a"] * 6, "click": series}).write_parquet(tmp_path / f"{name}.parquet")
        label = LabelColumn("click", positive=(text,))
        schema = Schema("p", Source("parquet"), (label,), categorical=(CategoricalColumn("c"),), split=SCHEMA.split)
        report = prepare_data(schema, [tmp_path / f"{name}.parquet"], tmp_path / f"{name} out")
        seen = series.len() - series.null_count() - (series.is_nan().sum() if series.dtype.is_float() else 0)
        rate = values.count(int(POSITIVE[text])) / seen if text != "yes" else 0.0
        assert report["label_rate"]["click"]["train"] == pytest.approx(rate, abs=1e-6), name
        warned = [line for line in report["warnings"] if "`positive`" in line]
        assert warned == (
            ["label 'click': no row has the `positive` value 'yes'; see how the raw file writes it"]
            if text == "yes"
            else []
        )


def test_missing_texts_hold_for_typed_frames(tmp_path):
    rows = {"c": ["3", "-1", "4", "-1"], "d": ["1.5", "-1", " 2", "0"], "y": ["0", "1", "0", "1"]}
    pl.DataFrame(rows).write_csv(tmp_path / "a.csv")
    schema = Schema(
        "m",
        Source("csv", missing=("", "-1")),
        (LabelColumn("y"),),
        dense=(DenseColumn("d", missing_value=9.0),),
        categorical=(CategoricalColumn("c"),),
        split=SCHEMA.split,
    )
    prepare_data(schema, [tmp_path / "a.csv"], tmp_path / "out")
    resolved, vocabulary = load_schema(tmp_path / "out" / "schema.json"), tmp_path / "out" / "vocabulary"
    (expected,) = read_encoded_rows(resolved, vocabulary, tmp_path / "a.csv", True)
    assert expected["dense"][:, 0].tolist() == [1.5, 9.0, 2.0, 0.0]
    assert_equal(join_blocks(encode_frame(resolved, vocabulary, pl.DataFrame(rows))), expected, FEATURES)
    for kinds in itertools.product((pl.Int64, pl.Float64, pl.String), (pl.Float32, pl.Float64)):
        frame = (
            pl.DataFrame(rows)
            .with_columns(pl.col("d").str.strip_chars())
            .cast(dict(zip(("c", "d"), kinds, strict=True)))
        )
        assert_equal(join_blocks(encode_frame(resolved, vocabulary, frame)), expected, FEATURES)


def test_domains_of_a_schema_are_canonical_and_distinct(tmp_path):
    pl.DataFrame({"c": ["a", "b"], "y": [0, 1], "s": [1.0, 2.0]}).write_parquet(tmp_path / "a.parquet")
    schema = Schema("d", Source("parquet"), (LabelColumn("y"),), categorical=(CategoricalColumn("c"),), domain="s")
    schema = dataclasses.replace(schema, split=SCHEMA.split, domain_values=("2.0", "1"))
    report = prepare_data(schema, [tmp_path / "a.parquet"], tmp_path / "out")
    assert (
        list(report["domain_rows"]) == ["2", "1"] == list(load_schema(tmp_path / "out" / "schema.json").domain_values)
    )
    twice = dataclasses.replace(schema, domain_values=("1", "2", "1.0"))
    with pytest.raises(UserError, match=r"domain_values = '1' and '1\.0': the same value twice"):
        prepare_data(twice, [tmp_path / "a.parquet"], tmp_path / "twice")
    many = dataclasses.replace(schema, domain_values=tuple(str(number) for number in range(3, 40)))
    with pytest.raises(UserError, match=r"column 's' = '1': expected a domain .*\(3, 4, .*, 14 and 25 more\)"):
        prepare_data(many, [tmp_path / "a.parquet"], tmp_path / "many")
