"""Computes calibration: the ratio of predicted to observed positives, and the curve of observed by predicted rate."""

import numpy as np
from scipy.special import expit

from wukong_jax.metrics.auc import sum_runs_of_equal_scores

CalibrationCurve = list[dict[str, float]]  # "predicted" and "observed" rates, and "weight", in ascending order


def compute_calibration(predicted: float, observed: float) -> float:
    """Returns predicted over observed positives; 1 is calibrated, and above 1 too many positives are predicted.

    Args:
      predicted: weighted sum of the predicted probabilities.
      observed: weighted sum of the labels.

    Returns:
      The ratio; nan if there are no observed positives.
    """
    return float(predicted / observed) if observed > 0 else float("nan")


def compute_calibration_curve(
    labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None, bins: int = 20
) -> CalibrationCurve:
    """Computes the calibration curve of rows, on the host, in bins of about equal weight.

    Args:
      labels: [R] in [0, 1].
      logits: [R].
      weights: [R], at least 0; None for equal weights. Rows of weight 0 are ignored.
      bins: maximum number of points; there may be fewer, because rows with equal logits share a bin.

    Returns:
      One mapping per non-empty bin, in ascending order of prediction.
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
    """Computes the calibration curve from fine score bins, merged into bins of about equal weight.

    Args:
      positive: [fine bins], weight of the positives, in ascending order of score.
      negative: [fine bins], weight of the negatives.
      predicted: [fine bins], weighted sum of the predicted probabilities.
      bins: maximum number of points.

    Returns:
      One mapping per non-empty bin, in ascending order of prediction; the rates of the merged bins are exact.
    """
    positive, predicted = np.asarray(positive, np.float64), np.asarray(predicted, np.float64)
    weight = positive + np.asarray(negative, np.float64)
    total = weight.sum()
    if not total > 0:
        return []
    middle = (np.cumsum(weight) - 0.5 * weight) / total  # a fine bin is not split; its middle decides
    coarse = np.clip((middle * bins).astype(np.int64), 0, bins - 1)
    sums = [np.bincount(coarse, values, minlength=bins) for values in (predicted, positive, weight)]
    return [
        {"predicted": float(p / w), "observed": float(y / w), "weight": float(w)}
        for p, y, w in zip(*sums, strict=True)
        if w > 0
    ]
