"""Tests log loss and normalized entropy against exact arithmetic and scikit-learn."""

import decimal
import math

import jax
import numpy as np
import pytest

from wukong_jax.metrics.normalized_entropy import (
    compute_base_entropy,
    compute_log_loss,
    compute_normalized_entropy,
    compute_row_log_loss,
)


def exact_row_loss(logit, label):
    """Computes the loss with 60 decimal digits, where nothing overflows or cancels."""
    with decimal.localcontext(prec=60):
        probability = 1 / (1 + (-decimal.Decimal(float(logit))).exp())
        y = decimal.Decimal(float(label))
        return float(-(y * probability.ln() + (1 - y) * (1 - probability).ln()))


@pytest.mark.parametrize("label", [0.0, 0.25, 1.0])
def test_row_log_loss_keeps_its_digits_at_both_ends(label):
    logits = np.array([-60, -30, -17, -3, -1e-4, 0, 0.5, 8, 17, 30, 60], np.float32)
    expected = np.array([exact_row_loss(logit, label) for logit in logits])
    computed = jax.jit(compute_row_log_loss)(logits, np.full_like(logits, label))
    np.testing.assert_allclose(computed, expected, rtol=1e-6)  # a few float32 roundings of a relative 6e-8
    on_host = [compute_log_loss(np.array([label]), np.array([logit])) for logit in logits]
    np.testing.assert_allclose(on_host, expected, rtol=1e-14)


def test_log_loss_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=3000) * 3
    labels, weights = (rng.random(3000) < 0.2).astype(float), rng.random(3000)
    expected = metrics.log_loss(labels, 1 / (1 + np.exp(-logits)), sample_weight=weights)
    assert compute_log_loss(labels, logits, weights) == pytest.approx(expected, rel=1e-12)


def test_log_loss_without_weight_is_nan_and_padding_counts_nothing():
    assert math.isnan(compute_log_loss(np.array([1.0]), np.array([0.0]), np.array([0.0])))
    padded = compute_log_loss(np.array([1.0, 0.0]), np.array([2.0, np.nan]), np.array([1.0, 0.0]))
    assert padded == compute_log_loss(np.array([1.0]), np.array([2.0]))


def test_normalized_entropy_of_the_base_rate_is_one():
    labels = np.array([1.0, 0, 0, 0, 0])
    logit_of_base_rate = np.full(5, math.log(0.2 / 0.8))
    assert compute_normalized_entropy(compute_log_loss(labels, logit_of_base_rate), 0.2) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("base_rate", [0.0, 1.0, float("nan")])
def test_normalized_entropy_of_one_class_is_nan(base_rate):
    assert math.isnan(compute_normalized_entropy(0.3, base_rate))


def test_base_entropy_of_half_is_one_bit_and_of_one_class_nothing():
    assert compute_base_entropy(0.5) == pytest.approx(math.log(2), rel=1e-15)
    assert compute_base_entropy(0.0) == compute_base_entropy(1.0) == 0.0
    assert compute_base_entropy(1e-12) == pytest.approx(1e-12 * (1 + 12 * math.log(10)), rel=1e-9)
