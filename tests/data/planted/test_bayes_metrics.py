import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from wukong_jax.data.planted.bayes_metrics import compute_bayes_metrics, compute_expected_metrics, compute_weighted_auc


def slow_auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Computes the AUC by comparing every pair of rows."""
    won = pairs = 0.0
    for i in range(len(score)):
        for j in range(len(score)):
            if i != j:
                weight = positive[i] * (1 - positive[j])
                won += weight * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
                pairs += weight
    return won / pairs


@pytest.mark.parametrize("distinct", [3, 1000])
@pytest.mark.parametrize("hard", [False, True])
def test_weighted_auc_equals_the_sum_over_all_pairs(distinct: int, hard: bool) -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, distinct, 60).astype(np.float64)
    positive = rng.random(60)
    if hard:
        positive = (positive < 0.4).astype(np.float64)
    assert compute_weighted_auc(score, positive)[0] == pytest.approx(slow_auc(score, positive), abs=1e-12)


def test_bayes_metrics_on_rows_equal_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    logit = rng.normal(-1, 1.5, 5000)
    labels = (rng.random(5000) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    metrics = compute_bayes_metrics(logit, labels)
    probability = 1 / (1 + np.exp(-logit))
    assert metrics.log_loss == pytest.approx(log_loss(labels, probability), abs=1e-12)
    assert metrics.auc == pytest.approx(roc_auc_score(labels, probability), abs=1e-12)
    prior = np.full(5000, labels.mean(dtype=np.float64))
    assert metrics.normalized_entropy == pytest.approx(metrics.log_loss / log_loss(labels, prior), abs=1e-7)


def test_expected_metrics_and_standard_errors_are_those_of_repeated_samples() -> None:
    """300 samples of 1000 rows: means agree within 4 errors of the mean, spreads within 20 % (4.1 % per deviation)."""
    rng = np.random.default_rng(2)
    expected = compute_expected_metrics(rng.normal(-1, 1.5, 400_000))
    drawn = []
    for _ in range(300):
        logit = rng.normal(-1, 1.5, 1000)
        drawn.append(compute_bayes_metrics(logit, rng.random(1000) < 1 / (1 + np.exp(-logit))))
    for key in ("log_loss", "auc"):
        values = np.array([getattr(metrics, key) for metrics in drawn])
        errors = np.array([getattr(metrics, f"{key}_standard_error") for metrics in drawn])
        own_error = getattr(expected, f"{key}_standard_error")
        bound = 4 * np.hypot(values.std() / np.sqrt(300), own_error)
        assert abs(values.mean() - getattr(expected, key)) < bound
        assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_expected_metrics_have_the_error_they_state() -> None:
    rng = np.random.default_rng(3)
    samples = [compute_expected_metrics(rng.normal(-1, 1.5, 2000)) for _ in range(300)]
    for key in ("log_loss", "auc"):
        values = np.array([getattr(metrics, key) for metrics in samples])
        stated = np.mean([getattr(metrics, f"{key}_standard_error") for metrics in samples])
        assert stated == pytest.approx(values.std(), rel=0.2)


def test_extreme_logits_stay_finite() -> None:
    metrics = compute_expected_metrics(np.array([-800.0, 0.0, 800.0]))
    assert metrics.log_loss == pytest.approx(np.log(2) / 3)
