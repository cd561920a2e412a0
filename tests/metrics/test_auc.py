"""Tests the exact and the binned AUC against counting every pair."""

import math

import numpy as np
import pytest

from wukong_jax.metrics.auc import compute_auc, compute_auc_from_histograms

# Both sides are float64 and add fewer than 1e6 pairs: what differs is the order of addition.
FLOAT64 = 1e-12


def count_pairs(labels, scores, weights):
    """Computes AUC by definition: a pair of a positive and a negative counts 1 if ordered correctly, 1/2 if equal."""
    won = total = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            mass = weights[i] * labels[i] * weights[j] * (1 - labels[j])
            won += mass * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
            total += mass
    return won / total


def make_rows(seed, rows=120, values=15):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, rows).astype(np.float32) / 4 - 2  # few values: many ties
    labels = (rng.random(rows) < 1 / (1 + np.exp(-scores))).astype(np.float32)
    weights = rng.choice(np.array([0.0, 0.5, 1.0, 3.0], np.float32), rows)
    return labels, scores, weights


@pytest.mark.parametrize("seed", range(4))
def test_auc_with_ties_and_weights_equals_counted_pairs(seed):
    labels, scores, weights = make_rows(seed)
    assert compute_auc(labels, scores) == pytest.approx(count_pairs(labels, scores, np.ones(120)), abs=FLOAT64)
    assert compute_auc(labels, scores, weights) == pytest.approx(count_pairs(labels, scores, weights), abs=FLOAT64)


def test_auc_of_soft_labels_splits_each_row_in_two():
    rng = np.random.default_rng(5)
    labels, scores = rng.random(60), rng.normal(size=60).round(1)
    expected = count_pairs(labels, scores, np.ones(60))
    assert compute_auc(labels, scores) == pytest.approx(expected, abs=FLOAT64)


def test_auc_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores, weights = make_rows(9, rows=5000, values=300)
    expected = metrics.roc_auc_score(labels, scores, sample_weight=weights)
    assert compute_auc(labels, scores, weights) == pytest.approx(expected, abs=1e-10)


def test_auc_of_perfect_reversed_and_constant_scores():
    labels = np.array([0, 0, 1, 1, 1])
    assert compute_auc(labels, np.arange(5)) == 1.0
    assert compute_auc(labels, -np.arange(5)) == 0.0
    assert compute_auc(labels, np.full(5, 60.0)) == 0.5


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], []])
def test_auc_without_one_class_is_nan(labels):
    scores = np.linspace(-60, 60, len(labels))
    assert math.isnan(compute_auc(np.array(labels), scores))
    assert all(math.isnan(value) for value in compute_auc_from_histograms(np.array(labels), np.zeros(len(labels))))


def test_auc_ignores_rows_of_weight_zero_whatever_they_hold():
    labels, scores, _ = make_rows(3)
    padded_scores = np.concatenate([scores, [np.nan, 60, -60]]).astype(np.float32)
    padded_labels = np.concatenate([labels, [1, 0, 1]])
    weights = np.concatenate([np.ones(120), np.zeros(3)])
    assert compute_auc(padded_labels, padded_scores, weights) == compute_auc(labels, scores)


def test_auc_of_a_counted_nan_is_nan():
    assert math.isnan(compute_auc(np.array([0, 1, 1]), np.array([0.0, np.nan, 1.0])))


@pytest.mark.parametrize("bins", [2, 7, 40, 1000])
def test_bound_of_binned_auc_holds_and_shrinks(bins):
    rng = np.random.default_rng(bins)
    for _ in range(20):
        # Adversarial within bins too: labels follow the score or its opposite.
        scores = rng.random(400)
        labels = (rng.random(400) < (scores if rng.random() < 0.5 else 1 - scores)).astype(float)
        bin_ = (scores * bins).astype(int)
        binned = compute_auc_from_histograms(
            np.bincount(bin_, labels, minlength=bins), np.bincount(bin_, 1 - labels, minlength=bins)
        )
        assert abs(binned.auc - compute_auc(labels, scores)) <= binned.error_bound + FLOAT64
        assert binned.error_bound <= 2 / bins  # about half of 1/bins for scores spread evenly


def test_bound_of_binned_auc_is_reached_by_a_perfect_order_in_one_bin():
    assert compute_auc_from_histograms(np.array([3.0]), np.array([2.0])) == (0.5, 0.5)
