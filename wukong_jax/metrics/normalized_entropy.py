"""Log loss of logits, and normalized entropy: the log loss over that of predicting the base rate."""

import jax
import numpy as np


def compute_row_log_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Log loss of each row, in nats, without overflow and without loss of digits at either end.

    Args:
      logits: [...] float32.
      labels: [...] float32 in [0, 1].

    Returns:
      [...] float32, at least 0.
    """
    return labels * jax.nn.softplus(-logits) + (1.0 - labels) * jax.nn.softplus(logits)


def compute_log_loss(labels: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The weighted mean log loss in nats, on the host, in float64.

    Args:
      labels: [R] in [0, 1].
      logits: [R].
      weights: [R], at least 0; None for 1 each. Rows of weight 0 count nothing, whatever they hold.

    Returns:
      The mean; nan without weight.
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
    """The log loss, in nats, of predicting `base_rate` for every row when that is the rate of positives."""
    if np.isnan(base_rate) or base_rate <= 0 or base_rate >= 1:
        return float("nan") if np.isnan(base_rate) else 0.0
    return float(-(base_rate * np.log(base_rate) + (1 - base_rate) * np.log1p(-base_rate)))


def compute_normalized_entropy(log_loss: float, base_rate: float) -> float:
    """Normalized entropy: 1 is what the base rate alone gives, lower is better.

    Args:
      log_loss: mean log loss of the rows, in nats.
      base_rate: share of positives among the same rows, weighted alike.

    Returns:
      The ratio; nan where one class is absent, since the base rate then leaves nothing to explain.
    """
    entropy = compute_base_entropy(base_rate)
    return log_loss / entropy if entropy > 0 else float("nan")
