"""Tests that rows of two vocabularies are matched by the values that they stand for."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.data.raw.canonical_values import canonical_text
from wukong_jax.data.raw.same_values import match_rows, match_values
from wukong_jax.data.raw.vocabulary import Vocabulary, save_vocabulary
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source

TEXTS = st.lists(st.sampled_from(["7", "7.0", "07", "", "é", "b", "1e3", "1000", "true", "NaN", " b"]), unique=True)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(TEXTS, TEXTS)
def test_values_match_by_their_canonical_form(values, old_values):
    first = {}
    for position, value in enumerate(old_values):
        first.setdefault(canonical_text(value), position + 1)
    expected = [first.get(canonical_text(value), -1) for value in values]
    found = match_values(pl.Series(values, dtype=pl.String), pl.Series(old_values, dtype=pl.String))
    assert found.tolist() == expected


def make_schema(column):
    return Schema("made_up", Source("csv"), (LabelColumn("y"),), categorical=(column,))


def test_tables_that_need_no_vocabulary_match_by_id(tmp_path):
    hashed = CategoricalColumn("c", "hash", rows=6, salt=2)
    rows, why = match_rows(hashed, tmp_path, make_schema(hashed), tmp_path)
    assert (rows.tolist(), why) == ([0, 1, 2, 3, 4, 5], "")
    identity = CategoricalColumn("c", "identity", rows=6)
    rows, _ = match_rows(identity, tmp_path, make_schema(dataclasses.replace(identity, rows=4)), tmp_path)
    assert rows.tolist() == [0, 1, 2, 3, -1, -1]


@pytest.mark.parametrize(
    ("old", "why"),
    [
        (CategoricalColumn("c", "hash", rows=7, salt=2), "rows was 7"),
        (CategoricalColumn("c", "hash", rows=6), "salt was 0"),
        (CategoricalColumn("c", "identity", rows=6), "encoding was 'identity'"),
        (CategoricalColumn("c", "hash", rows=6, salt=2, transform="criteo_log"), "transform was 'criteo_log'"),
        (CategoricalColumn("other", "hash", rows=6, salt=2), "no such table"),
    ],
)
def test_a_table_whose_ids_mean_something_else_is_not_matched(old, why, tmp_path):
    new = CategoricalColumn("c", "hash", rows=6, salt=2)
    assert match_rows(new, tmp_path, make_schema(old), tmp_path) == (None, why)


def test_the_unknown_row_and_known_values_are_matched(tmp_path):
    for folder, values in (("new", ["b", "c", "a"]), ("old", ["a", "b"])):
        counts = pl.Series([1] * len(values), dtype=pl.Int64)
        save_vocabulary(Vocabulary(pl.Series(values), counts), tmp_path / folder, "c")
    old = CategoricalColumn("c", rows=3)
    rows, _ = match_rows(dataclasses.replace(old, rows=6), tmp_path / "new", make_schema(old), tmp_path / "old")
    np.testing.assert_array_equal(rows, [0, 2, -1, 1, -1, -1])
