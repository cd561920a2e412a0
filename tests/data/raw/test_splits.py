"""Tests that every row is in one split, the same that a plain sort gives."""

import numpy as np
import pytest

from wukong_jax.data.raw.splits import TEST, TRAIN, VALIDATION, build_split_rule, select_kth
from wukong_jax.schema import Split

POSITIONS = np.arange(10_000)
NO_TIMES = np.zeros(10_000, np.int64)


def test_select_kth_equals_sort():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(-(2**62), 2**62, 500), rng.integers(0, 5, 500), [-1, -(2**63), 2**63 - 1]])
    chunks = np.array_split(values, 7)
    ordered = np.sort(values)
    for k in [0, 1, 250, 600, len(values) - 1]:
        assert select_kth(lambda: chunks, k) == ordered[k]


def test_order_cuts_at_fractions():
    rule = build_split_rule(Split(by="order", validation_fraction=0.2, test_fraction=0.3), 10, lambda: [])
    assigned = rule.assign(np.arange(10), np.zeros(10, np.int64), TRAIN)
    assert assigned.tolist() == [TRAIN] * 5 + [VALIDATION] * 2 + [TEST] * 3


def test_time_puts_the_latest_rows_to_test_whatever_their_order():
    times = np.random.default_rng(0).permutation(100).astype(np.int64) * 3600
    rule = build_split_rule(Split(by="time"), 100, lambda: [times[:30], times[30:]])
    assigned = rule.assign(np.arange(100), times, TRAIN)
    assert np.bincount(assigned).tolist() == [80, 10, 10]
    assert times[assigned == TRAIN].max() < times[assigned == VALIDATION].min()
    assert times[assigned == VALIDATION].max() < times[assigned == TEST].min()


def test_time_keeps_rows_of_one_second_together():
    times = np.repeat(np.array([5, 6, 7], np.int64), [50, 40, 10])
    rule = build_split_rule(Split(by="time", validation_fraction=0.2, test_fraction=0.1), 100, lambda: [times])
    assert np.bincount(rule.assign(np.arange(100), times, TRAIN)).tolist() == [50, 40, 10]


def test_no_test_fraction_leaves_no_test_rows():
    times = np.full(10, 2**40, np.int64)
    for by in ("order", "time", "random"):
        rule = build_split_rule(Split(by=by, validation_fraction=0.5, test_fraction=0.0), 10, lambda: [times])
        assert TEST not in rule.assign(np.arange(10), times, TRAIN)


def test_random_depends_on_seed_and_position_only():
    split = Split(by="random", validation_fraction=0.1, test_fraction=0.2, seed=3)
    rule = build_split_rule(split, 10_000, lambda: [])
    assigned = rule.assign(POSITIONS, NO_TIMES, TRAIN)
    parts = [rule.assign(part, part * 0, TRAIN) for part in np.array_split(POSITIONS, 3)]
    np.testing.assert_array_equal(assigned, np.concatenate(parts))
    # The largest standard deviation of these counts is 46; 6 of them never happen by chance.
    np.testing.assert_allclose(np.bincount(assigned), [7000, 1000, 2000], atol=276)
    other = build_split_rule(Split(by="random", seed=4), 10_000, lambda: []).assign(POSITIONS, NO_TIMES, TRAIN)
    assert (other != assigned).any()


@pytest.mark.parametrize("file_split", [TRAIN, VALIDATION, TEST])
def test_by_file_gives_the_files_split_and_may_halve_test(file_split):
    plain = build_split_rule(Split(by="file", train="a", test="b"), 1, lambda: [])
    assert set(plain.assign(POSITIONS, NO_TIMES, file_split)) == {file_split}
    halved = build_split_rule(Split(by="file", train="a", test="b", validation_share_of_test=0.5), 1, lambda: [])
    assigned = halved.assign(POSITIONS, NO_TIMES, file_split)
    if file_split == TEST:
        # The standard deviation of half of 10,000 rows is 50; 6 of them never happen by chance.
        assert abs((assigned == VALIDATION).sum() - 5000) < 300
        assert set(assigned) == {VALIDATION, TEST}
    else:
        assert set(assigned) == {file_split}
