"""Tests calibration and its curve against sums in a loop."""

import math

import numpy as np
import pytest

from wukong_jax.metrics.calibration import (
    compute_calibration,
    compute_calibration_curve,
    compute_calibration_curve_from_histograms,
)


def make_rows(rows=1000, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=rows) * 2 - 1
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return labels, logits


def test_calibration_is_predicted_over_observed():
    assert compute_calibration(30.0, 20.0) == 1.5
    assert math.isnan(compute_calibration(30.0, 0.0))


def test_curve_of_distinct_scores_cuts_sorted_rows_in_equal_parts():
    labels, logits = make_rows()
    curve = compute_calibration_curve(labels, logits, bins=10)
    order = np.argsort(logits)
    expected = []
    for part in range(10):
        rows = order[part * 100 : (part + 1) * 100]
        predicted = sum(1 / (1 + math.exp(-logits[row])) for row in rows) / 100
        expected.append({"predicted": predicted, "observed": sum(labels[row] for row in rows) / 100, "weight": 100})
    assert len(curve) == 10
    for computed, wanted in zip(curve, expected, strict=True):
        assert computed == pytest.approx(wanted, rel=1e-9)  # float64 sums of 100 rows in another order


def test_curve_keeps_the_sums_of_all_rows_and_ascends():
    labels, logits = make_rows()
    weights = np.random.default_rng(1).choice([0.0, 1.0, 4.0], 1000)
    curve = compute_calibration_curve(labels, logits, weights, bins=13)
    total = sum(point["weight"] for point in curve)
    assert total == weights.sum()
    assert sum(p["observed"] * p["weight"] for p in curve) == pytest.approx((weights * labels).sum(), rel=1e-12)
    predicted = [p["predicted"] for p in curve]
    assert predicted == sorted(predicted)
    # No row weighs more than 4, so that no bin is farther than that from its share on either side.
    assert all(abs(p["weight"] - total / 13) <= 8 for p in curve)


def test_curve_does_not_depend_on_the_order_of_rows_with_equal_scores():
    labels = np.array([1, 0, 0, 1, 0, 0, 1, 0])
    logits = np.array([0, 0, 0, 0, 0, 0, 2, 2.0])
    curve = compute_calibration_curve(labels, logits, bins=4)
    assert curve == compute_calibration_curve(labels[::-1], logits[::-1], bins=4)
    assert [p["weight"] for p in curve] == [6, 2]
    assert curve[0] == {"predicted": 0.5, "observed": pytest.approx(1 / 3), "weight": 6}


def test_curve_from_fine_histograms_equals_that_of_rows():
    labels, logits = make_rows()
    rank = np.argsort(np.argsort(logits))  # one fine bin for each row
    probability = 1 / (1 + np.exp(-logits))
    sums = [np.bincount(rank, values) for values in (labels, 1 - labels, probability)]
    merged = compute_calibration_curve_from_histograms(*sums, bins=20)
    for computed, wanted in zip(merged, compute_calibration_curve(labels, logits, bins=20), strict=True):
        assert computed == pytest.approx(wanted, rel=1e-9)


def test_curve_of_no_weight_is_empty_and_extreme_logits_stay_within_0_and_1():
    assert compute_calibration_curve(np.array([1.0]), np.array([3.0]), np.array([0.0])) == []
    curve = compute_calibration_curve(np.array([0, 1, 0, 1]), np.array([-60.0, 60, -1000, 1000]), bins=4)
    assert [p["predicted"] for p in curve] == pytest.approx([0, 0, 1, 1], abs=1e-20)
