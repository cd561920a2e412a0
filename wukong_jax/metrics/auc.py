"""Computes AUC (area under the ROC curve): the probability that a positive row scores above a negative one.

Ties count one half.
"""

from typing import NamedTuple

import numpy as np


class BinnedAuc(NamedTuple):
    """An AUC computed from histograms, with a bound on its error."""

    auc: float  # nan without positives or without negatives
    error_bound: float  # the exact AUC of the same scores is within auc +- error_bound


def compute_auc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Computes the exact AUC, on the host, in float64.

    Args:
      labels: [R], 1 or 0; a fraction y counts as a positive row of weight y and a negative row of weight 1 - y.
      scores: [R], logits or probabilities. Logits are preferable: close to 0 and 1, probabilities round to ties.
      weights: [R], at least 0; None for equal weights. Rows of weight 0 (padding) are ignored, whatever their values.

    Returns:
      The AUC; nan if one class is absent or a counted score is nan.
    """
    labels, scores, weights = _keep_weighted_rows(labels, scores, weights)
    if np.isnan(scores).any():
        return float("nan")
    positive, negative = sum_runs_of_equal_scores(labels, scores, weights)[:2]
    return _area(positive, negative)


def compute_auc_from_histograms(positive: np.ndarray, negative: np.ndarray) -> BinnedAuc:
    """Computes the AUC of scores of which only the bins are known.

    Rows in the same bin count as ties. Pairs of rows in different bins are ordered as by the scores. A pair in the same
    bin adds one half where the scores would add 0, 1/2 or 1. The error is therefore at most half of the share of pairs
    in the same bin, which is the bound.

    Args:
      positive: [bins], weight of the positive rows in each bin, in ascending order of score.
      negative: [bins], weight of the negative rows.

    Returns:
      The AUC and the bound on its error; both nan if one class is absent.
    """
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    pairs = positive.sum() * negative.sum()
    bound = float(0.5 * (positive * negative).sum() / pairs) if pairs != 0 else float("nan")
    return BinnedAuc(_area(positive, negative), bound)


def sum_runs_of_equal_scores(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorts rows by score and sums the weights of each distinct score.

    Args:
      labels: [R] in [0, 1].
      scores: [R] without nan.
      weights: [R] float64.

    Returns:
      (positive, negative, score), each [distinct scores] in ascending order of score; weights in float64.
    """
    if not scores.size:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    order = np.argsort(scores)
    scores = scores[order]
    mass = weights[order]
    positive_mass = mass * labels[order]
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    positive = np.add.reduceat(positive_mass, starts)
    negative = np.add.reduceat(mass - positive_mass, starts)
    return positive, negative, scores[starts]


def _area(positive: np.ndarray, negative: np.ndarray) -> float:
    positives, negatives = positive.sum(), negative.sum()
    if np.isnan(positives + negatives) or positives <= 0 or negatives <= 0:
        return float("nan")
    negatives_below = np.cumsum(negative) - negative
    return float(np.dot(positive, negatives_below + 0.5 * negative) / (positives * negatives))


def _keep_weighted_rows(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores)
    if weights is None:
        return labels, scores, np.ones(labels.shape, np.float64)
    weights = np.asarray(weights, np.float64)
    kept = weights > 0
    return (labels, scores, weights) if kept.all() else (labels[kept], scores[kept], weights[kept])
