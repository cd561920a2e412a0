"""Tests that a row in memory is encoded as the same row of a file, whatever its values, and alone as among others."""

import csv
import datetime
import decimal
import io
import re
import types

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wukong_jax.data.raw import memory_rows
from wukong_jax.data.raw.canonical_values import canonical_text, canonicalise_texts
from wukong_jax.data.raw.memory_rows import MemoryEncoder
from wukong_jax.data.raw.new_rows import read_encoded_rows
from wukong_jax.data.raw.plain_rows import PlainEncoder
from wukong_jax.data.raw.row_values import find_kind, join_plain_rows, to_series
from wukong_jax.data.raw.vocabulary import StoredCodes, Vocabulary, VocabularyIds, save_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source

KNOWN = ["7", "a", "true", "", "2.5", "é", "12345678", "-1", "1970-01-01", "a b"]
VOCABULARY = Vocabulary(pl.Series(KNOWN), pl.Series(range(len(KNOWN), 0, -1), dtype=pl.Int64))
STEPS = Vocabulary(pl.Series(["0", "1", "2", "7", ""]), pl.Series([5, 4, 3, 2, 1], dtype=pl.Int64))
BOUNDS = (0.0, 1.5, 100.0)


def describe_columns(source):
    """Every kind of column, once."""
    return Schema(
        "all",
        source,
        (LabelColumn("click"),),
        dense=(
            DenseColumn("d_none", missing_value=-2.0),
            DenseColumn("d_log", "log1p"),
            DenseColumn("d_criteo", "criteo_log"),
            DenseColumn("d_standard", "standardise", mean=1.25, standard_deviation=0.5),
            DenseColumn("d_narrow", "standardise", mean=1.0, standard_deviation=1e-36),
            DenseColumn("d_bucket", "bucketise", boundaries=BOUNDS),
        ),
        categorical=(
            CategoricalColumn("c_words", rows=len(KNOWN) + 1),
            CategoricalColumn("c_hash", encoding="hash", rows=1000, salt=3),
            CategoricalColumn("c_identity", encoding="identity", rows=50),
            CategoricalColumn("c_criteo", rows=6, transform="criteo_log"),
            CategoricalColumn("c_bucket", encoding="hash", rows=90, transform="bucketise", boundaries=BOUNDS),
            CategoricalColumn("c_steps", encoding="identity", rows=9, transform="criteo_log"),
            CategoricalColumn("c_shared", vocabulary_of="c_words"),
            CategoricalColumn("b_words", separator="|", max_length=2, vocabulary_of="c_words"),
            CategoricalColumn("b_hash", encoding="hash", rows=77, separator="|", max_length=3),
            CategoricalColumn("b_identity", encoding="identity", rows=20, separator="|", max_length=2),
        ),
        sequences=(CategoricalColumn("s_words", separator="|", max_length=2, vocabulary_of="c_words"),),
        domain="site",
        domain_values=("a", "7", ""),
    )


CSV = Source("csv")
STRIPPED = Source("csv", strip=True, missing=("", "NULL", "-1", "0.5"))
PARQUET = Source("parquet")
TEXTS = [
    *KNOWN, "7.0", "-0.00", " 7", "7 ", "\t7", "True", "FALSE", "NULL", "NULL ", "-1.0", "1e3", "1_0", "inf", "nan",
    "NaN", "99999999999999999999", "0x10", "a|b|7|12345678", "|", "7|7.0|", "1|2|x", "1.5", "0.5", "-0", "+5",
    "9007199254740993", "1e39", "3.5e38", "1e-320", "\u0663", "\u00a07", "1.", ".5", "3,5",
]  # fmt: skip
VALUES = [
    None, True, False, 7, 7.0, -1, -1.0, 0, -0.0, 2.5, 0.5, 1e-5, 2**53, 2.0**53, 2.0**60, 2**60, 2**70, -(2**63), 1e39,
    1e300, float("nan"), float("inf"), "7", "7.0", "x", "", " 7", "a|b", "3.5e38", datetime.date(1970, 1, 1),
    datetime.datetime(2020, 1, 2, 3, 4, 5), datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), datetime.time(1, 2),
    decimal.Decimal("7.00"), np.int32(7), np.float32(2.5), [], [7, 7], [7, 2.5], [7.0, None, 2.5],
    ["a", "", None, "7.0"], [True], [2.0**60], np.array([1, 2, 3]), ["a", "b", "7", "a"], [1, 200],
]  # fmt: skip
SLOW = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    save_vocabulary(VOCABULARY, folder, "c_words")
    save_vocabulary(STEPS, folder, "c_criteo")
    return folder


def names_of(schema):
    return [*(c.name for c in schema.dense), *(c.name for c in schema.id_columns), schema.domain]


def write_csv(path, names, row):
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([names, [row[name] for name in names]])
    path.write_bytes(text.getvalue().encode())


def encode_file(schema, vocabularies, path):
    """Returns the columns of a file's only row, or the message of its error behind the line."""
    try:
        (columns,) = read_encoded_rows(schema, vocabularies, path, labels_required=False)
    except UserError as error:
        return re.sub(r"^.*?, (line 1|line 2|column)", "column", str(error), count=1).replace(
            "column, column", "column"
        )
    return columns


def check_equal(found, place, errors, kept, expected):
    if isinstance(expected, str):
        message = re.sub(r"^rows, line \d+, ", "", errors[place])
        # The reader of a Parquet file refuses some types of columns before its rows are encoded, in other words.
        assert message == expected or ": has type " in message
        return
    assert place not in errors, errors[place]
    for name in ("dense", "ids", "domain"):
        np.testing.assert_array_equal(found[name][kept.index(place)], expected[name][0], err_msg=name)


@SLOW
@given(st.data())
@pytest.mark.parametrize("source", [CSV, STRIPPED], ids=["plain", "stripped"])
def test_texts_are_encoded_as_in_files(vocabularies, tmp_path_factory, source, data):
    schema = describe_columns(source)
    names = names_of(schema)
    texts = st.sampled_from(TEXTS)
    numbers = st.sampled_from(["1", "2.5", "", "7.0", " 3", "-4"])
    rows = [
        {
            name: data.draw(numbers if name[0] == "d" or name in ("c_criteo", "c_bucket", "c_steps") else texts)
            for name in names
        }
        for _ in range(3)
    ]
    if data.draw(st.booleans()):  # an odd value in one place, so that its message shows
        rows[1][data.draw(st.sampled_from(names))] = data.draw(texts)
    for row in rows:
        row["site"] = data.draw(st.sampled_from(["a", "7.0", "7", "a", ""]))
    path = tmp_path_factory.mktemp("a") / "row.csv"
    found, errors = MemoryEncoder(schema, vocabularies).encode_each(rows)
    kept = [place for place in range(len(rows)) if place not in errors]
    for place, row in enumerate(rows):
        write_csv(path, names, row)
        check_equal(found, place, errors, kept, encode_file(schema, vocabularies, path))


@SLOW
@given(st.data())
def test_typed_values_are_encoded_as_in_parquet_files(vocabularies, tmp_path_factory, data):
    schema = describe_columns(PARQUET)
    names = names_of(schema)
    ordinary = {name: 2 if name != "site" else "a" for name in names} | {n: ["7"] for n in names if n[0] in "bs"}
    ordinary |= {"b_identity": [3], "site": "a"}
    rows = []
    for _ in range(4):
        row = dict(ordinary)
        for name in data.draw(st.lists(st.sampled_from(names), max_size=3)):
            row[name] = data.draw(st.sampled_from(VALUES))
        rows.append(row)
    path = tmp_path_factory.mktemp("a") / "row.parquet"
    found, errors = MemoryEncoder(schema, vocabularies).encode_each(rows)
    kept = [place for place in range(len(rows)) if place not in errors]
    for place, row in enumerate(rows):
        kinds = {name: find_kind(row[name]) for name in names}
        pl.DataFrame([to_series(name, kind, [row[name]]) for name, kind in kinds.items()]).write_parquet(path)
        check_equal(found, place, errors, kept, encode_file(schema, vocabularies, path))


@pytest.mark.parametrize("source", [CSV, STRIPPED, PARQUET], ids=["plain", "stripped", "parquet"])
@pytest.mark.parametrize("name", names_of(describe_columns(CSV)))
def test_plain_rows_equal_columns_of_one(vocabularies, source, name):
    """Every value in every column: the plain encoder agrees with frames, or leaves the row to them."""
    schema = describe_columns(source)
    encoder = MemoryEncoder(schema, vocabularies)
    start = {other: None for other in names_of(schema)} | {"site": "a"}
    rows = [start | {name: value} for value in [*VALUES, *TEXTS]]
    columns = encoder._empty(len(rows))
    left = set(encoder._plain.encode(rows, columns))
    plain = [place for place in range(len(rows)) if place not in left]
    assert len(plain) >= (3 if name == "site" else 10)
    encoder._plain = types.SimpleNamespace(encode=lambda rows, columns: range(len(rows)))
    expected, errors = encoder.encode_each([rows[place] for place in plain])
    assert errors == {}
    for part in ("dense", "ids", "domain"):
        for place, found, wanted in zip(plain, columns[part][plain], expected[part], strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=f"{name} = {rows[place][name]!r}")


def test_a_row_does_not_depend_on_the_others(vocabularies):
    schema = describe_columns(PARQUET)
    row = {name: 1 for name in names_of(schema)} | {"b_words": ["a"], "b_hash": [1], "b_identity": [1], "s_words": []}
    rows = [
        row | {"site": "a", "c_hash": value}
        for value in (2**60, 2.5, 1e300, "2.5", True, None, [1], {}, b"x", object())
    ]
    deep = []
    for _ in range(5000):
        deep = [deep]
    rows += [{"c_hash": 1}, 3, row | {"site": "mars"}]
    rows += [
        row | {"site": "a", name: value} for name in ("c_words", "b_words") for value in ("\ud800", deep, {"a": deep})
    ]
    encoder = MemoryEncoder(schema, vocabularies)
    together, errors = encoder.encode_each(rows)
    kept = [place for place in range(len(rows)) if place not in errors]
    assert kept == [0, 1, 3, 4, 5]
    for place, single in enumerate(rows):
        alone, alone_errors = encoder.encode_each([single])
        if place in errors:
            assert errors[place].replace(f"line {place + 1},", "line 1,") == alone_errors[0]
            assert "\n" not in errors[place]
            assert len(errors[place]) < 400
        else:
            for name, array in alone.items():
                np.testing.assert_array_equal(array[0], together[name][kept.index(place)])
    assert errors[11].startswith("rows, line 12, a int: expected a mapping")
    assert errors[10].startswith("rows, line 11, no column 'd_none'")
    assert "expected a domain of training rows (a, 7, )" in errors[12]
    with pytest.raises(UserError, match="rows, line 1, no column"):
        encoder.encode([{}])


def pool_values(kind):
    """Returns the values of one type, and None; of lists those whose elements have one type."""
    if isinstance(kind, tuple):
        lists = [value for value in VALUES if type(value) is list]
        return [None, [], *(value for value in lists if {type(part) for part in value} - {type(None)} == {kind[1]})]
    return [None, *(value for value in [*VALUES, *TEXTS] if type(value) is kind)]


@SLOW
@given(st.data())
@pytest.mark.parametrize("source", [STRIPPED, PARQUET], ids=["stripped", "parquet"])
def test_many_rows_are_encoded_together_as_each_alone(vocabularies, source, data):
    """Columns of one type each, the way of many rows; where a column has others, the rows are taken apart."""
    schema = describe_columns(source)
    names = names_of(schema)
    usual = {name: str if name[0] == "b" or name in ("s_words", "c_words") else int for name in names} | {"site": str}
    kinds = st.sampled_from([bool, int, float, str, (list, int), (list, str), (list, float), (list, bool)])
    usual |= {name: data.draw(kinds) for name in data.draw(st.lists(st.sampled_from(names), max_size=3))}
    rows = [{name: data.draw(st.sampled_from(pool_values(usual[name]))) for name in names} for _ in range(5)]
    if data.draw(st.booleans()):
        for row in rows:
            row |= {"site": data.draw(st.sampled_from(["a", "7.0", "7"])), "c_words": "a"}
    encoder = MemoryEncoder(schema, vocabularies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_rows, "_MANY_ROWS", 1)
        together, errors = encoder.encode_each(rows)
    kept = [place for place in range(len(rows)) if place not in errors]
    for place, row in enumerate(rows):
        alone, alone_errors = encoder.encode_each([row])
        if place in errors:
            assert errors[place].replace(f"line {place + 1},", "line 1,") == alone_errors[0]
            continue
        assert alone_errors == {}
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][kept.index(place)], err_msg=name)


def test_usual_rows_are_put_in_columns_and_others_taken_apart():
    rows = [{"a": 1, "b": "x", "c": [1], "d": None, "e": 2.5}, {"a": None, "b": "", "c": [], "d": None, "e": None}]
    types_of = {"a": pl.Int64, "b": pl.String, "c": pl.List(pl.Int64), "d": pl.Null, "e": pl.Float64}
    joined = join_plain_rows(list(types_of), rows)
    assert dict(joined.schema) == types_of
    assert joined.to_dicts() == rows
    for odd in ({"a": 2.0}, {"a": True}, {"a": 2**63}, {"b": "\ud800"}, {"c": ["x"]}, {"c": 1}, {"d": {}}, {"e": b""}):
        assert join_plain_rows(list(types_of), [*rows, rows[0] | odd]) is None
    for odd in ({}, 3, "text", None):
        assert join_plain_rows(list(types_of), [*rows, odd]) is None


def test_rows_without_rows(vocabularies):
    schema = describe_columns(PARQUET)
    encoder = MemoryEncoder(schema, vocabularies)
    assert {name: array.shape for name, array in encoder.encode([]).items()} == {
        "dense": (0, 6), "ids": (0, schema.slots), "domain": (0,),
    }  # fmt: skip


def test_most_values_of_usual_logs_are_plain(vocabularies):
    schema = describe_columns(CSV)
    encoder = PlainEncoder(schema, {n: VocabularyIds(VOCABULARY) for n in ("c_words", "c_criteo")})
    row = {name: "1.5" for name in names_of(schema)} | {"c_identity": 3, "b_identity": "3|4", "site": "a"}
    columns = MemoryEncoder(schema, vocabularies)._empty(2)
    assert encoder.encode([row, row | {"d_none": None, "c_words": "iPhone XT", "b_words": ["a", "b"]}], columns) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("-01.27TRUEtrueFALSEfalse \n"), max_size=8))
@example("-0.0")
@example("1.0\n")
@example("True")
def test_one_text_has_the_form_that_it_has_among_many(text):
    assert canonical_text(text) == canonicalise_texts(pl.Series([text, "x"]))[0]


def test_vocabulary_ids_are_those_of_stored_codes():
    texts = pl.Series([*TEXTS, None, "7", "new", "7.00"], dtype=pl.String)
    for values in (KNOWN, ["7", "7.0", "b", "a", "5.0"]):  # the second of a version that kept both forms
        vocabulary = Vocabulary(pl.Series(values), pl.Series(range(len(values)), dtype=pl.Int64))
        np.testing.assert_array_equal(VocabularyIds(vocabulary).encode(texts), StoredCodes(vocabulary).encode(texts))


def test_a_missing_vocabulary_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"vocabulary .*c_words\.parquet: cannot read"):
        MemoryEncoder(describe_columns(CSV), tmp_path)
