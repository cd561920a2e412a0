"""Tests the comparison of padded bags and bags laid flat: lengths, fill, and a tiny case from end to end."""

import numpy as np

from wukong_jax.bench import bag_lengths
from wukong_jax.bench.growth import Sizes, build_sized_run
from wukong_jax.training import bag_places


def test_a_case_is_timed_with_its_fill(monkeypatch):
    monkeypatch.setattr(bag_places, "LEAST_SLOTS", 1)
    monkeypatch.setattr(bag_lengths, "CASES", ((2, 20),))
    said = []
    sizes = Sizes(batch=64, width=4, layers=1, table_rows=40)
    (row,) = bag_lengths.measure_bag_lengths(sizes, 2, said.append)
    batch = bag_lengths.draw_tail(build_sized_run(Sizes(64, 4, 1, 2, 40, 20)), 64)
    lengths = (batch.ids >= 0).reshape(64, 2, 20).sum(axis=2)
    assert (lengths.min(), lengths.max() > 10, np.median(lengths) < 5) == (1, True, True)
    assert row["mean_length"] == round(lengths.mean(), 2)
    assert row["fill_padded"] == round(lengths.sum() / (64 * 40), 4)
    assert abs(row["fill"] * row["places"] - row["fill_padded"]) < 1e-3
    assert row["padded_temporary_bytes"] > row["by_length_temporary_bytes"]
    assert row["padded_ms"] > 0
    assert row["by_length_ms"] > 0
    assert len(said) == 1
