"""Tests the comparisons of padded bags and sequences with those by length: lengths, fill, and tiny cases end to end."""

import numpy as np

from wukong_jax.bench import bag_lengths, sequence_lengths
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


def test_sequences_are_timed_with_their_fill(monkeypatch):
    monkeypatch.setattr(sequence_lengths, "FACTORY", "tests.training.sequence_reader:build")  # compiles faster
    monkeypatch.setattr(sequence_lengths, "OPTIONS", {})
    said = []
    (row,) = sequence_lengths.measure_sequence_lengths(2, said.append, ((2, 24),), 64)
    run = sequence_lengths.build_sequence_run(2, 24, "padded", 64)
    lengths = (bag_lengths.draw_tail(run, 64).ids[:, -48:] >= 0).reshape(64, 2, 24).sum(axis=2)
    assert row["mean_length"] == round(lengths.mean(), 2)
    assert row["fill_padded"] == round(lengths.sum() / (64 * 48), 4)
    assert abs(row["fill"] * row["places"] - row["fill_padded"]) < 1e-3
    assert row["places"] < 1
    assert min(row["padded_ms"], row["by_length_ms"]) > 0
    assert len(said) == 1
