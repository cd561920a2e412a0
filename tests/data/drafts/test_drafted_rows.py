"""Tests with random tables: CSV and Parquet get the same draft, which prepares every row, with the right numbers."""

import dataclasses
import datetime
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.drafts.draft_rows import draft_file, draft_frame
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.scan import LayoutHints
from wukong_jax.data.drafts.schema_text import format_schema
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.data.raw.vocabulary import load_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.schema import Split, load_schema

ROWS = 120
NAMES = [
    "a,b",
    'say "hi"',
    "größe",
    "年齢",
    "__proto__",
    "two words",
    "x|y",
    "item_id",
    "price",
    "when",
    "tab;name",
    "1e5",
]
START = datetime.datetime(2021, 3, 1)


KINDS = {
    "few integers": lambda some, random: random.integers(-1, 4, ROWS),
    "many integers": lambda some, random: random.integers(0, 10**6, ROWS),
    "large integers": lambda some, random: random.integers(10**17, 10**18, 40)[random.integers(0, 40, ROWS)],
    "counts": lambda some, random: np.floor(np.exp(random.normal(2, 2, ROWS))).astype(np.int64),
    "floats": lambda some, random: random.normal(0, 10.0 ** random.integers(-6, 12), ROWS),
    "whole floats": lambda some, random: random.integers(0, 30, ROWS).astype(float),
    "flags": lambda some, random: (some < 0.3).astype(np.int64),
    "booleans": lambda some, random: some < 0.3,
    "texts": lambda some, random: random.choice(["red", "grün", "blue, dark", 'a "b"', "x;y z"], ROWS),
    "one a row": lambda some, random: np.array([f"k{row}" for row in range(ROWS)]),
    "counter": lambda some, random: np.arange(ROWS) + 1000,
    "constant": lambda some, random: np.full(ROWS, "c"),
    "bags": lambda some, random: random.choice(["a|b", "b|c|d", "c", "a|d", "e"], ROWS),
    "seconds": lambda some, random: 1_600_000_000 + random.integers(0, 10**7, ROWS),
    "dates": lambda some, random: np.array([START + datetime.timedelta(hours=int(9000 * share)) for share in some]),
    "days": lambda some, random: np.array([(START + datetime.timedelta(int(900 * share))).date() for share in some]),
}


@st.composite
def frames(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    columns = {}
    for name in names:
        values = KINDS[draw(st.sampled_from(list(KINDS)))](random.random(ROWS), random).tolist()
        if draw(st.booleans()):
            holes = random.random(ROWS) < draw(st.sampled_from([0.02, 0.5]))
            values = [None if hole else value for hole, value in zip(holes, values, strict=True)]
        columns[name] = values
    columns["label"] = (random.random(ROWS) < 0.4).astype(int).tolist()
    columns["also"] = [f"f{value}" for value in random.integers(0, 4, ROWS)]
    return pl.DataFrame(columns)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(frames())
def test_draft_is_the_same_of_csv_and_parquet_and_prepares_every_row(frame):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        drafts = [draft_frame(frame, root / f"rows.{suffix}") for suffix in ("csv", "parquet")]
        plain = [dataclasses.replace(draft.schema, source=drafts[0].schema.source) for draft in drafts]
        assert plain[0] == plain[1]
        assert [d.kind for d in drafts[0].decisions] == [d.kind for d in drafts[1].decisions]
        for draft, suffix in zip(drafts, ("csv", "parquet"), strict=True):
            (root / "schema.json").write_text(format_schema(draft.schema), encoding="utf-8")
            schema = load_schema(root / "schema.json")
            assert schema == draft.schema
            everything = dataclasses.replace(schema, split=Split(validation_fraction=0.0, test_fraction=0.0))
            report = prepare_data(everything, [root / f"rows.{suffix}"], root / suffix)
            assert report["skipped_rows"] == 0
            check_rows(frame, everything, root / suffix)


def check_rows(frame, schema, folder):
    """Compares the prepared rows, all of which are training rows in file order, with the frame."""
    blocks = open_row_blocks(folder, "train")
    assert blocks.num_blocks == 1
    rows = blocks.read(0)
    np.testing.assert_array_equal(rows["labels"][:, 0], frame["label"].to_numpy())
    for position, column in enumerate(schema.dense):
        numbers = frame[column.name].cast(pl.Float64).fill_null(column.missing_value).to_numpy()
        if column.transform == "log1p":
            numbers = np.log1p(np.maximum(numbers, 0))
        elif column.transform == "standardise":
            numbers = (numbers - numbers.mean()) / numbers.std()
        # float32 of the numbers, whose mean and deviation are summed in another order
        np.testing.assert_allclose(rows["dense"][:, position], numbers, rtol=1e-5, atol=1e-6, err_msg=column.name)
    for column, start, stop in schema.slot_ranges():
        vocabulary = load_vocabulary(folder / "vocabulary", column.name)
        texts = ["(unknown)", *vocabulary.values]
        read = [[texts[value] for value in slots if value >= 0] for slots in rows["ids"][:, start:stop].tolist()]
        assert read == [expected_ids(value, column, texts) for value in frame[column.name].to_list()], column.name


def expected_ids(value, column, texts):
    if column.separator is not None:
        parts = [] if value is None else value.split(column.separator)[: column.max_length]
    elif isinstance(value, float) and value.is_integer():
        parts = [str(int(value))]
    elif isinstance(value, bool):
        parts = [str(value).lower()]
    else:
        parts = ["" if value is None else str(value)]
    return [part if part in texts else "(unknown)" for part in parts]


def test_blanks_around_names_and_values_are_trimmed(tmp_path):
    lines = [
        "label, color ,size",
        *[f"{row % 7 % 2}, {'red' if row % 3 else 'blue'} , {row % 11 * 1.5}" for row in range(200)],
    ]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    draft = draft_file(path)
    assert draft.schema.source.strip
    assert [column.name for column in draft.schema.id_columns] == ["color"]
    assert prepare_data(draft.schema, [path], tmp_path / "data")["skipped_rows"] == 0
    assert list(load_vocabulary(tmp_path / "data" / "vocabulary", "color").values) == ["red", "blue"]


def test_chunks_and_samples_change_no_kind(tmp_path):
    random = np.random.default_rng(3)
    rows = 20_000
    frame = pl.DataFrame(
        {
            "label": (random.random(rows) < 0.3).astype(int),
            "item": random.integers(0, 5000, rows),
            "amount": np.exp(random.normal(0, 1, rows)).round(3),
            "mostly": [str(row) if row != 17_123 else "x" for row in random.integers(0, 500, rows)],
        }
    )
    whole = draft_frame(frame, tmp_path / "rows.csv")
    small = dataclasses.replace(Limits(), kept_values=1024, sample_rows=2000)
    chunked = draft_file(tmp_path / "rows.csv", limits=small, chunk_bytes=20_000)
    assert any("sample" in note for note in chunked.notes)
    assert not any("sample" in note for note in whole.notes)
    assert [d.kind for d in chunked.decisions] == [d.kind for d in whole.decisions]
    found = {d.name: d.profile for d in chunked.decisions}
    assert not found["item"].exact
    assert abs(found["item"].distinct - frame["item"].n_unique()) < 0.15 * frame["item"].n_unique()
    one = frame.with_columns(mostly=pl.Series(["x"] + ["5"] * (rows - 1)))
    one.write_csv(tmp_path / "one.csv")  # the one text in the first row is never sampled away
    late = frame.with_columns(mostly=pl.Series(["5"] * (rows - 1) + ["x"]))
    late.write_csv(tmp_path / "late.csv")
    for name in ("one", "late"):
        decisions = draft_file(tmp_path / f"{name}.csv", limits=small, chunk_bytes=20_000).decisions
        assert next(d for d in decisions if d.name == "mostly").kind == "category"


def write_text(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def draft_error(path, **options):
    with pytest.raises(UserError) as error:
        draft_file(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_without_use_are_refused_in_one_line(tmp_path):
    path = tmp_path / "rows.csv"
    assert "empty" in draft_error(write_text(path, ""))
    assert "no rows" in draft_error(write_text(path, "label,a\n"))
    assert "no such file" in draft_error(tmp_path / "none.csv")
    assert "no other columns" in draft_error(write_text(path, "label\n1\n0\n"))
    assert "no value in any row" in draft_error(write_text(path, "label,a\n1,\n0,\n"))
    assert "named twice" in draft_error(write_text(path, "label,a,a\n1,2,3\n0,3,4\n"))
    assert "no such column; the file has a, b" in draft_error(write_text(path, "a,b\n1,2\n0,3\n"))
    assert "--columns" in draft_error(write_text(path, "1,2\n0,3\n"))
    assert "UTF-16" in draft_error(write_text(path, "label,a\n1,2\n".encode("utf-16")))
    assert "1 in all" in draft_error(write_text(path, "label,a\n1,2\n1,3\n")).replace("'1'", "1")
    broken = "label,a\n" + "1,2,3\n" * 5 + "0,1\n" * 5
    assert "cannot be read" in draft_error(write_text(path, broken))


def test_few_broken_rows_are_counted_and_named(tmp_path):
    rows = "".join(f"{row % 7 % 2},x{row % 5}\n" for row in range(100))
    draft = draft_file(write_text(tmp_path / "rows.csv", "label,a\n" + rows + "1,2,3\n"))
    assert any("1 rows cannot be read" in note and "line 102" in note for note in draft.notes)


def test_an_index_without_name_is_left_out(tmp_path):
    rows = "".join(f"{row},{row % 7 % 2},x{row % 5}\n" for row in range(100))
    draft = draft_file(write_text(tmp_path / "rows.csv", ",label,a\n" + rows))
    assert [d.kind for d in draft.decisions] == ["left out", "label", "category"]


def test_flags_override_and_are_checked(tmp_path):
    rows = "".join(f"{row % 7 % 2},x{row % 5},y{row % 4},{row % 3 + 0.5}\n" for row in range(200))
    path = write_text(tmp_path / "rows.csv", "label,a,b,w\n" + rows)
    schema = draft_file(path, group="a", domain="b", weight="w").schema
    assert (schema.group, schema.domain, schema.weight) == ("a", "b", "w")
    assert [column.name for column in schema.id_columns] == ["a", "b"]
    assert not schema.dense
    assert [column.name for column in draft_file(path, drop=("a",)).schema.id_columns] == ["b"]
    for options, message in (
        ({"weight": "a"}, "needs a number"),
        ({"drop": ("label",)}, "is --label too"),
        ({"drop": ("c",)}, "no such column"),
        ({"keep": ("a",), "drop": ("a",)}, "is --drop too"),
    ):
        assert message in draft_error(path, **options)


def test_headerless_files_take_names(tmp_path):
    rows = "".join(f"{row % 7 % 2}\tx{row % 5}\t{row % 13}\n" for row in range(200))
    path = write_text(tmp_path / "rows.tsv", rows)
    schema = draft_file(path, "column_1", hints=LayoutHints(("column_1",))).schema
    assert (schema.source.separator, schema.source.header, schema.source.columns[0]) == ("\t", False, "column_1")
    schema = draft_file(path, "click", hints=LayoutHints(("click",), ("click", "a", "b"))).schema
    assert schema.source.columns == ("click", "a", "b")
    assert prepare_data(schema, [path], tmp_path / "data")["skipped_rows"] == 0
