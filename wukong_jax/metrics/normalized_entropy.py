"""Computes log loss from logits, and NE (normalized entropy): log loss divided by that of predicting the base rate."""

import jax
import numpy as np


def compute_row_log_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the log loss of each row, in nats, accurately and without overflow for large logits of either sign.

    Args:
      logits: [...] float32.
      labels: [...] float32 in [0, 1].

    Returns:
      [...] float32, at least 0.
    """
    return labels * jax.nn.softplus(-logits) + (1.0 - labels) * jax.nn.softplus(logits)


def compute_log_loss(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Computes the weighted mean log loss in nats, on the host, in float64.

    Args:
      labels: [R] in [0, 1].
      logits: [R].
      weights: [R], at least 0; None for equal weights. Rows of weight 0 are ignored, whatever their values.

    Returns:
      The mean; nan if the total weight is 0.
    """
    labels, logits = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    weights = np.ones(labels.shape) if weights is None else np.asarray(weights, np.float64)
    total = weights.sum()
    if not total > 0:
        return float("nan")
    kept = weights > 0
    labels, logits, weights = labels[kept], logits[kept], weights[kept]
    loss = labels * np.logaddexp(0.0, -logits) + (1.0 - labels) * np.logaddexp(0.0, logits)
    return float(np.dot(weights, loss) / total)


def compute_base_entropy(base_rate: float) -> float:
    """Computes the log loss, in nats, of predicting the rate of positives, `base_rate`, for every row."""
    if np.isnan(base_rate) or base_rate <= 0 or base_rate >= 1:
        return float("nan") if np.isnan(base_rate) else 0.0
    return float(-(base_rate * np.log(base_rate) + (1 - base_rate) * np.log1p(-base_rate)))


def compute_normalized_entropy(log_loss: float, base_rate: float) -> float:
    """Computes normalized entropy; predicting the base rate gives 1, and lower is better.

    Args:
      log_loss: mean log loss of the rows, in nats.
      base_rate: share of positives among the same rows, with the same weights.

    Returns:
      The ratio; nan if one class is absent, since predicting the base rate then has no loss.
    """
    entropy = compute_base_entropy(base_rate)
    return log_loss / entropy if entropy > 0 else float("nan")
