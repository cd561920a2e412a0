"""Tests that a fingerprint differs whenever any value of any row, a vocabulary or the schema does."""

import dataclasses
import hashlib
import json

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.batch import COLUMN_DTYPES
from wukong_jax.data.blocks.row_blocks import BlockWriter
from wukong_jax.data.fingerprint import encoding_part
from wukong_jax.data.raw.vocabulary import Vocabulary, save_vocabulary
from wukong_jax.runs.rows import open_run_data
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json

SCHEMA = Schema(
    "made_up",
    Source("csv"),
    (LabelColumn("y"), LabelColumn("z")),
    dense=(DenseColumn("x"),),
    categorical=(CategoricalColumn("item", rows=4), CategoricalColumn("site", "identity", rows=9)),
)
ROWS = {"train": 40, "validation": 9, "test": 23}
VALUES = ["a", "bc", "ä,\n"]


def draw_rows():
    random = np.random.default_rng(0)
    return {
        split: {
            name: random.integers(0, 9, (rows, *shape)).astype(COLUMN_DTYPES[name])
            for name, shape in SCHEMA.column_shapes().items()
        }
        for split, rows in ROWS.items()
    }


def write(folder, rows, values=VALUES, schema=SCHEMA, counts=None, rows_per_block=8):
    folder.mkdir(parents=True)
    (folder / "schema.json").write_text(schema_to_json(schema))
    counts = counts or [1] * len(values)
    save_vocabulary(Vocabulary(pl.Series(values), pl.Series(counts)), folder / "vocabulary", "item")
    for split, columns in rows.items():
        with BlockWriter(folder, split, schema, rows_per_block) as writer:
            writer.append(columns)
    return folder


def fingerprint(folder):
    return open_run_data(DataConfig("blocks", path=str(folder)), folder, print).fingerprint


@st.composite
def changed_values(draw):
    """A split, a column, and a place in the flat column."""
    split = draw(st.sampled_from(sorted(ROWS)))
    name = draw(st.sampled_from(sorted(SCHEMA.column_shapes())))
    size = ROWS[split] * int(np.prod(SCHEMA.column_shapes()[name]))
    return split, name, draw(st.integers(0, size - 1))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(changed_values())
def test_any_changed_value_changes_the_fingerprint_of_the_rows_only(tmp_path_factory, change):
    split, name, place = change
    folder = tmp_path_factory.mktemp("rows")
    before = fingerprint(write(folder / "a", draw_rows()))
    rows = draw_rows()
    rows[split][name].reshape(-1)[place] += 1
    after = fingerprint(write(folder / "b", rows))
    assert before != after
    assert encoding_part(before) == encoding_part(after)
    assert fingerprint(write(folder / "c", draw_rows())) == before


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True))
def test_any_other_vocabulary_is_another_encoding(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("rows")
    before, after = (fingerprint(write(folder / name, draw_rows(), v)) for name, v in (("a", VALUES), ("b", values)))
    assert (encoding_part(before) == encoding_part(after)) == (values == VALUES)


def test_values_are_told_apart_by_their_borders(tmp_path):
    first = fingerprint(write(tmp_path / "a", draw_rows(), ["ab", "c"]))
    assert first != fingerprint(write(tmp_path / "b", draw_rows(), ["a", "bc"]))


def test_counts_do_not_matter_and_the_schema_does(tmp_path):
    first = fingerprint(write(tmp_path / "a", draw_rows()))
    assert first == fingerprint(write(tmp_path / "b", draw_rows(), counts=[5, 4, 3]))
    other = dataclasses.replace(SCHEMA, labels=(LabelColumn("y", threshold=2.0), LabelColumn("z")))
    assert encoding_part(first) != encoding_part(fingerprint(write(tmp_path / "c", draw_rows(), schema=other)))


def test_other_blocks_of_the_same_rows_are_other_rows(tmp_path):
    """The size of blocks determines the order of shuffled rows."""
    first = fingerprint(write(tmp_path / "a", draw_rows()))
    assert first != fingerprint(write(tmp_path / "b", draw_rows(), rows_per_block=16))


def fingerprint_of_earlier_versions(folder, rows, rows_per_block=8):
    digest = hashlib.sha256((folder / "schema.json").read_bytes())
    for split in sorted(rows):
        digest.update(f"{split} {ROWS[split]} {min(rows_per_block, ROWS[split])}".encode())
        for name in sorted(rows[split]):
            digest.update(name.encode() + rows[split][name][:rows_per_block].tobytes())
    return digest.hexdigest()[:16]


def test_a_fingerprint_of_an_earlier_version_is_compared_by_its_formula(tmp_path):
    folder = write(tmp_path / "a", draw_rows())
    data = open_run_data(DataConfig("blocks", path=str(folder)), folder, print)
    old = fingerprint_of_earlier_versions(folder, draw_rows())
    assert data.matches(old)
    assert data.matches(data.fingerprint)
    assert not data.matches(old[::-1])
    assert not data.matches("")
    assert not data.matches("2:" + old)


def test_a_folder_without_digests_has_the_fingerprint_of_one_with_them(tmp_path, monkeypatch):
    first = fingerprint(write(tmp_path / "a", draw_rows()))
    folder = write(tmp_path / "b", draw_rows())
    for split in ROWS:
        index = folder / "blocks" / f"{split}.json"
        index.write_text(json.dumps({key: v for key, v in json.loads(index.read_text()).items() if key != "digests"}))
        index.with_name(f"{split}.checked.json").unlink()
    monkeypatch.setattr("wukong_jax.data.fingerprint._MANY_ROWS", 30)
    said = []
    data = open_run_data(DataConfig("blocks", path=str(folder)), folder, said.append)
    assert data.fingerprint == first
    assert len(said) == 1
    assert "train" in said[0]
    data.note_checked()
    monkeypatch.setattr("wukong_jax.data.fingerprint.compute_digests", None)  # is not called again
    assert fingerprint(folder) == first
