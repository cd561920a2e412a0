"""Tests that preparing and scoring read the same rows of a file, and that files without rows are no mistake."""

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wukong_jax.data.blocks.preparation_report import format_report
from wukong_jax.data.blocks.row_blocks import open_row_blocks
from wukong_jax.data.raw.new_rows import read_encoded_rows
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, load_schema

SCHEMA = Schema(
    name="titles",
    source=Source("csv"),
    split=Split(by="order", validation_fraction=0.0, test_fraction=0.0),
    labels=(LabelColumn("click"),),
    dense=(DenseColumn("d"),),
    categorical=(CategoricalColumn("title"),),
)
LINES = [
    "plain,1,0.5",
    '"a, b",0, 2',
    '"13"" tv",1,0.25 ',
    '15" tv,0,1e3',
    '"16" tv",1,1',
    '"open,1,2',
    'open",0,3',
    '"two\nlines",1,',
    "",
    "x,1",
    '"y",0,1_0',
]


def write(folder, lines, name="rows.csv", newline="\n"):
    path = folder / name
    path.write_bytes(newline.join(["title,click,d", *lines]).encode())
    return path


def score(prepared, path, chunk_bytes):
    schema = load_schema(prepared / "schema.json")
    parts = list(read_encoded_rows(schema, prepared / "vocabulary", path, False, chunk_bytes=chunk_bytes))
    return {name: np.concatenate([part[name] for part in parts]) for name in ("dense", "ids")} if parts else {}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(LINES), max_size=8), st.sampled_from(["\n", "\r\n"]), st.integers(1, 80))
@example(['"13" tv",1,0.5', '"15" tv",0,0.2', "last,0,0.3"], "\n", 1 << 20)
@example(["a,1, 0.1", "b,0,0.2 ", "c,1,  "], "\n", 9)
def test_scoring_reads_the_rows_that_preparing_reads(tmp_path_factory, lines, newline, chunk_bytes):
    folder = tmp_path_factory.mktemp("a")
    path = write(folder, ["first,1,0", *lines], newline=newline)
    report = prepare_data(SCHEMA, [path], folder / "out", on_bad_row="skip", chunk_bytes=chunk_bytes)
    if report["skipped_rows"]:
        where = report["skipped_examples"][0].split(", column")[0].split(", a quote")[0]
        with pytest.raises(UserError) as error:
            score(folder / "out", path, chunk_bytes)
        assert str(error.value).startswith(where)
        return
    blocks = open_row_blocks(folder / "out", "train")
    read = [blocks.read(block) for block in range(blocks.num_blocks)]
    scored = score(folder / "out", path, chunk_bytes)
    for name, values in scored.items():
        np.testing.assert_array_equal(values, np.concatenate([columns[name] for columns in read]))


def test_files_without_rows_are_counted(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder, ["a,1,0.5", "b,0,1"], "part-0.csv")
    write(folder, [], "part-1.csv")
    (folder / "part-2.csv").write_bytes(b"")
    (folder / "._part-0.csv").write_bytes(b"junk")
    report = prepare_data(SCHEMA, [folder], tmp_path / "out")
    assert report["rows"]["train"] == 2
    assert report["empty_files"] == [str(folder / "part-1.csv"), str(folder / "part-2.csv")]
    assert f"2 of 3 files without rows, first {folder / 'part-1.csv'}" in format_report(report)
    assert score(tmp_path / "out", folder / "part-1.csv", 1 << 20) == {}


def test_a_parquet_file_without_rows_is_counted(tmp_path):
    frame = pl.DataFrame({"title": ["a"], "click": [1], "d": [0.5]})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.clear().write_parquet(tmp_path / "b.parquet")
    schema = Schema(**{**vars(SCHEMA), "source": Source("parquet")})
    report = prepare_data(schema, [tmp_path / "*.parquet"], tmp_path / "out")
    assert (report["rows"]["train"], report["empty_files"]) == (1, [str(tmp_path / "b.parquet")])


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_files_that_are_all_without_rows_are_refused(tmp_path, policy):
    files = [write(tmp_path, [], name) for name in ("a.csv", "b.csv")]
    with pytest.raises(UserError, match=r"a\.csv: no rows in any of the 2 files"):
        prepare_data(SCHEMA, files, tmp_path / "out", on_bad_row=policy)
    assert not (tmp_path / "out").exists()


def test_bad_rows_do_not_make_a_later_empty_file_one_with_rows(tmp_path):
    files = [write(tmp_path, ["a,1,0.5", "b"], "a.csv"), write(tmp_path, [], "b.csv")]
    report = prepare_data(SCHEMA, files, tmp_path / "out", on_bad_row="skip")
    assert (report["skipped_rows"], report["empty_files"]) == (1, [str(files[1])])
