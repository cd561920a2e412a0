"""Tests that real processes prepare raw files together, and end together when one finds a mistake."""

import pytest

from tests.data.raw.test_prepare_together import assert_same_data
from tests.multi_process.processes import launch
from wukong_jax.data.raw.prepare import prepare_data
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, schema_to_json

SCHEMA = Schema(
    "clicks",
    Source("csv"),
    (LabelColumn("click"),),
    dense=(DenseColumn("price", "standardise"),),
    categorical=(CategoricalColumn("item", min_count=2),),
    split=Split("order", validation_fraction=0.2, test_fraction=0.2),
)


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "schema.json").write_text(schema_to_json(SCHEMA))
    for file in range(3):
        rows = [f"{i % 2},{i * 0.37 - file},item {i * i % 41}" for i in range(200 + file)]
        (tmp_path / "raw" / f"{file}.csv").write_text("\n".join(["click,price,item", *rows, ""]))
    return tmp_path


def prepare(raw, name):
    flags = (f"--schema={raw}/schema.json", f"--input={raw}/raw", f"--output={raw}/{name}", "--rows_per_block=64")
    return launch(2, 1, "prepare_data", *flags)


def test_two_processes_prepare_what_one_does_and_end_together_at_a_mistake(raw):
    done = prepare(raw, "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1
    prepare_data(SCHEMA, [raw / "raw"], raw / "one", rows_per_block=64)
    assert_same_data(raw / "one", raw / "two")
    with (raw / "raw" / "2.csv").open("a", encoding="utf-8") as file:  # which process 1 reads
        file.write("1,no number,item 3\n")
    failed = prepare(raw, "bad")
    assert failed.returncode == 1
    assert "2.csv, line 204, column 'price' = 'no number'" in failed.stderr
    assert not (raw / "bad").exists()
