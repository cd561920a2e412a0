"""Calibration: predicted over observed positives, and the curve of observed against predicted rates."""

import numpy as np
from scipy.special import expit

from wukong_jax.metrics.auc import sum_runs_of_equal_scores

CalibrationCurve = list[dict[str, float]]  # "predicted" and "observed" rates, and "weight", in ascending order


def compute_calibration(predicted: float, observed: float) -> float:
    """Predicted positives over observed ones: 1 is calibrated, above 1 predicts too many.

    Args:
      predicted: weighted sum of the predicted probabilities.
      observed: weighted sum of the labels.

    Returns:
      The ratio; nan without observed positives.
    """
    return float(predicted / observed) if observed > 0 else float("nan")


def compute_calibration_curve(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None, bins: int = 20
) -> CalibrationCurve:
    """The calibration curve of rows, on the host, in bins of about equal weight.

    Args:
      labels: [R] in [0, 1].
      logits: [R].
      weights: [R], at least 0; None for 1 each. Rows of weight 0 count nothing.
      bins: points of the curve at most; rows with equal logits are never split, so there may be fewer.

    Returns:
      One mapping for each bin that holds weight, by ascending prediction.
    """
    labels, logits = np.asarray(labels), np.asarray(logits)
    weights = np.ones(labels.shape, np.float64) if weights is None else np.asarray(weights, np.float64)
    kept = (weights > 0) & ~np.isnan(logits)
    positive, negative, scores = sum_runs_of_equal_scores(labels[kept], logits[kept], weights[kept])
    predicted = (positive + negative) * expit(scores.astype(np.float64))
    return compute_calibration_curve_from_histograms(positive, negative, predicted, bins)


def compute_calibration_curve_from_histograms(
    positive: np.ndarray, negative: np.ndarray, predicted: np.ndarray, bins: int = 20
) -> CalibrationCurve:
    """The calibration curve of rows known by fine bins of their score, merged into bins of about equal weight.

    Args:
      positive: [fine bins], mass of positives, in ascending order of score.
      negative: [fine bins], mass of negatives.
      predicted: [fine bins], sum of the predicted probabilities, weighted.
      bins: points of the curve at most.

    Returns:
      One mapping for each bin that holds weight, by ascending prediction; exact for the merged bins.
    """
    positive, predicted = np.asarray(positive, np.float64), np.asarray(predicted, np.float64)
    weight = positive + np.asarray(negative, np.float64)
    total = weight.sum()
    if not total > 0:
        return []
    middle = (np.cumsum(weight) - 0.5 * weight) / total  # a fine bin goes whole to where its middle lies
    coarse = np.clip((middle * bins).astype(np.int64), 0, bins - 1)
    sums = [np.bincount(coarse, values, minlength=bins) for values in (predicted, positive, weight)]
    return [
        {"predicted": float(p / w), "observed": float(y / w), "weight": float(w)}
        for p, y, w in zip(*sums, strict=True)
        if w > 0
    ]
