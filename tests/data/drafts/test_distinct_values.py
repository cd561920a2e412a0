"""Tests the counts of distinct values and the row sample: exact while few, bounded and unbiased when many."""

import polars as pl
import pytest

from wukong_jax.data.drafts.distinct_values import DistinctValues, RowSample


def test_few_values_are_counted_exactly_over_chunks():
    values = DistinctValues(10)
    values.add(pl.Series(["a", "b", None, "a"]))
    values.add(pl.Series(["c", "a"]))
    assert (values.exact, values.distinct) == (True, 3)
    assert values.counts().rows() == [("a", 3), ("b", 1), ("c", 1)]


def test_many_values_are_counted_about_right_in_bounded_memory():
    values = DistinctValues(1000)
    for start in range(0, 60_000, 5000):
        values.add(pl.Series([f"v{(start + row) // 2}" for row in range(5000)]))
        assert values.counts().height <= 1000
    assert not values.exact
    assert values.distinct == pytest.approx(30_000, rel=0.15)
    assert set(values.counts()["rows"]) == {2}  # of kept values, all rows are counted


def test_row_sample_is_whole_while_few_and_a_uniform_share_then():
    sample = RowSample(1000)
    for start in range(0, 20_000, 500):
        sample.add(pl.DataFrame({"row": range(start, start + 500)}))
        assert sample.exact == (start < 1000 - 500 + 1)
    rows = sample.frame()["row"]
    assert 500 < len(rows) <= 1000
    assert rows.is_sorted()
    assert rows.mean() == pytest.approx(10_000, rel=0.1)
