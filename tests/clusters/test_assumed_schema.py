"""Tests row counts for tables of data sets that are not available."""

import dataclasses

import pytest

from wukong_jax.clusters.assumed_schema import assume_rows, assume_run, choose_schema
from wukong_jax.config import DataConfig, start_config
from wukong_jax.data.raw.builtin_schemas import load_builtin_schema
from wukong_jax.errors import UserError
from wukong_jax.schema import schema_to_json

RAW = DataConfig("raw", path="unread", schema="criteo")


def test_one_number_sizes_every_table():
    schema = assume_rows(choose_schema(RAW), (1000,))
    assert list(schema.vocabulary_rows().values()) == [1000] * 26


def test_numbers_go_to_tables_in_order():
    schema = assume_rows(choose_schema(RAW), tuple(range(2, 28)))
    assert schema.vocabulary_rows() == {f"C{i}": i + 1 for i in range(1, 27)}


def test_known_rows_and_shared_vocabularies_are_left_alone():
    schema = load_builtin_schema("criteo")
    first, second, third, *rest = schema.categorical
    known = dataclasses.replace(first, encoding="hash", rows=77, min_count=1)
    shares = dataclasses.replace(second, vocabulary_of=third.name, min_count=1)
    schema = dataclasses.replace(schema, categorical=(known, shares, third, *rest))
    rows = assume_rows(schema, (5,)).vocabulary_rows()
    assert rows["C1"] == 77
    assert "C2" not in rows
    assert sorted(set(rows.values())) == [5, 77]


def test_planted_clicks_need_no_assumption():
    planted = {"fields": 3, "values_per_field": 10, "orders": (1,), "order_shares": (1.0,)}
    schema = assume_rows(choose_schema(DataConfig("planted_clicks", planted)), ())
    assert list(schema.vocabulary_rows().values()) == [11] * 3


def test_schema_comes_from_prepared_data_or_the_named_file(tmp_path):
    resolved = assume_rows(load_builtin_schema("frappe"), (9,))
    (tmp_path / "schema.json").write_text(schema_to_json(resolved))
    assert choose_schema(RAW, data=str(tmp_path)) == resolved
    assert choose_schema(RAW, schema=str(tmp_path / "schema.json")) == resolved
    assert choose_schema(DataConfig("blocks", path=str(tmp_path))) == resolved
    assert choose_schema(RAW, schema="avazu").name == "avazu"
    with pytest.raises(UserError, match="leave one out"):
        choose_schema(RAW, schema="avazu", data=str(tmp_path))


@pytest.mark.parametrize("rows", [(), (5, 6)])
def test_missing_rows_are_named(rows):
    with pytest.raises(UserError, match="one number, or 26: C1, C2"):
        assume_rows(choose_schema(RAW), rows)


def test_rows_for_no_table_are_refused():
    with pytest.raises(UserError, match="none, all rows are known"):
        assume_rows(assume_rows(choose_schema(RAW), (5,)), (5,))


def test_unknown_domain_is_refused():
    with pytest.raises(UserError, match="domain"):
        assume_rows(load_builtin_schema("census_income"), (5,))


def test_a_run_whose_rows_are_assumed_needs_no_path():
    mapping = start_config()
    mapping.name, mapping.data.factory, mapping.data.schema = "assumed", "raw", "avazu"
    mapping.embeddings.width, mapping.training.batch_size, mapping.training.steps = 4, 8, 1
    mapping.embeddings.optimizer.kind, mapping.embeddings.optimizer.learning_rate = "sgd", 0.1
    with pytest.raises(UserError, match=r"config\.data\.path = ''"):
        assume_run(mapping)
    config, schema = assume_run(mapping, schema="criteo", table_rows=(1000,))
    assert (config.name, config.training.batch_size, schema.name) == ("assumed", 8, "criteo")
    assert set(schema.vocabulary_rows().values()) == {1000}
