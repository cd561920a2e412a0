"""Tests the comparison of drafted with hand-written schemas: what differs, and that the page names what misses."""

import dataclasses

import pytest

from wukong_jax.bench.drafted_schemas import SETS, draft_like, format_page, take_features, write_as_csv
from wukong_jax.config_files import list_shipped_configs
from wukong_jax.data.raw.builtin_schemas import BUILTIN_SCHEMAS, load_builtin_schema


def row(name, schema, auc):
    return {"set": name, "schema": schema, "seeds": [0, 1], "test_auc": auc, "test_auc_std": 0.001}


def test_page_names_the_sets_that_miss():
    words = ("hand-written", "drafted", "drafted, own config")
    rows = [row("a", word, 0.8) for word in words] + [
        row("b", w, x) for w, x in zip(words, (0.8, 0.79, 0.7), strict=True)
    ]
    page = format_page(rows, "2026-11-28", "a machine")
    assert "| b | 2 | 0.8000 +- 0.0010 | 0.7900 +- 0.0010 | -0.0100 | 0.7000 +- 0.0010 |" in page
    assert "except on b." in page
    assert "on every set of the table." in format_page(rows[:3], "2026-11-28", "a machine")


@pytest.mark.parametrize("name", SETS)
def test_sets_name_schemas_and_configs(name):
    assert SETS[name].schema in BUILTIN_SCHEMAS
    assert SETS[name].config in list_shipped_configs()


def test_only_features_differ_and_late_columns_are_left_out(real_data):
    hand = load_builtin_schema("hotel_bookings")
    draft = draft_like(hand, real_data("hotel-bookings"), SETS["hotel_bookings"].drop).schema
    schema = take_features(hand, draft)
    features = {column.name for column in (*schema.dense, *schema.id_columns)}
    late = {label.source_column for label in hand.labels} | set(SETS["hotel_bookings"].drop)
    assert not features & late
    same = dataclasses.replace(schema, source=hand.source, dense=hand.dense, categorical=hand.categorical)
    assert same == hand
    assert draft.timestamp_parts == hand.timestamp_parts


def test_libfm_becomes_csv_that_is_drafted(real_data, tmp_path):
    path, schema = write_as_csv(real_data("frappe"), load_builtin_schema("frappe"), tmp_path)
    draft = draft_like(schema, path, ()).schema
    assert draft.group == "user"
    assert {column.name for column in draft.id_columns} >= {"user", "item", "weather", "city"}
