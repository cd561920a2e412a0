"""Tests GAUC against one AUC per group in a loop."""

import math

import numpy as np
import pytest

from wukong_jax.metrics.auc import compute_auc
from wukong_jax.metrics.grouped_auc import compute_grouped_auc


def loop_over_groups(groups, labels, scores, weights):
    aucs, impressions, left_out = [], [], 0
    for group in np.unique(groups[weights > 0]):
        kept = (groups == group) & (weights > 0)
        if len(set(labels[kept])) < 2:
            left_out += 1
            continue
        aucs.append(compute_auc(labels[kept], scores[kept], weights[kept]))
        impressions.append(weights[kept].sum(dtype=np.float64))
    share = sum(impressions) / weights.sum(dtype=np.float64)
    return np.average(aucs, weights=impressions), len(aucs), left_out, share


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_grouped_auc_equals_a_loop_over_groups(seed, weighted):
    rng = np.random.default_rng(seed)
    rows = 600
    groups = rng.integers(-5, 120, rows)  # about five rows each, so that many hold one class only
    scores = rng.integers(0, 8, rows).astype(np.float32)  # equal scores within and across groups
    labels = (rng.random(rows) < 0.3).astype(np.float32)
    weights = rng.choice([0.0, 1.0, 2.5], rows) if weighted else np.ones(rows)
    expected = loop_over_groups(groups, labels, scores, weights)
    computed = compute_grouped_auc(groups, labels, scores, weights if weighted else None)
    assert computed == pytest.approx(expected, abs=1e-12)  # float64 sums of 600 rows
    assert computed.groups > 10
    assert computed.groups_left_out > 10


def test_grouped_auc_does_not_see_differences_between_groups():
    groups, labels = np.repeat(np.arange(50), 4), np.tile([0, 1, 0, 1], 50)
    within = np.tile([0.0, 1.0, 0.0, 1.0], 50)
    shift = np.random.default_rng(0).normal(size=50).repeat(4) * 100
    assert compute_grouped_auc(groups, labels, within + shift).auc == 1.0
    assert compute_auc(labels, within + shift) < 0.6


def test_grouped_auc_without_a_group_of_both_classes_is_nan_and_counted():
    grouped = compute_grouped_auc(np.array([1, 1, 2]), np.array([1, 1, 0]), np.array([0.0, 1.0, 2.0]))
    assert math.isnan(grouped.auc)
    assert (grouped.groups, grouped.groups_left_out, grouped.weight_share) == (0, 2, 0.0)


def test_grouped_auc_of_padding_alone_is_nan():
    grouped = compute_grouped_auc(np.zeros(3), np.array([0, 1, 0]), np.zeros(3), np.zeros(3))
    assert math.isnan(grouped.auc)
    assert (grouped.groups, grouped.groups_left_out) == (0, 0)


def test_grouped_auc_of_a_counted_nan_is_nan_and_of_a_padded_one_is_not():
    groups, labels = np.zeros(3, int), np.array([0, 1, 1])
    scores = np.array([0.0, 1.0, np.nan])
    assert math.isnan(compute_grouped_auc(groups, labels, scores).auc)
    assert compute_grouped_auc(groups, labels, scores, np.array([1, 1, 0])).auc == 1.0
