"""What a model of planted clicks can reach that knows the lower orders of the logit and nothing of the higher ones."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

_MOST_STEPS = 50


def compute_losses_of_orders(orders: Sequence[int], parts: np.ndarray, bias: float) -> dict[str, float]:
    """Expected log loss of the best logit that is linear in the lower orders' parts.

    Parts of other orders are uncorrelated, not independent, so a richer function of the lower orders could be a little
    better: read the numbers as marks on a scale. The last one is the Bayes log loss.

    Args:
      orders: ascending.
      parts: the true logit's part of each order over rows of the planted distribution, [orders, rows].
      bias: of the true logit.

    Returns:
      Highest order known -> log loss in nats; "0": the base rate alone.
    """
    probabilities = expit(parts.sum(axis=0, dtype=np.float64) + bias)
    ones = np.ones(len(probabilities))
    features = [np.stack([ones, *parts[:known]], axis=1) for known in range(len(parts) + 1)]
    return {str(order): _fit_logistic(x, probabilities) for order, x in zip((0, *orders), features, strict=True)}


def _fit_logistic(features: np.ndarray, probabilities: np.ndarray) -> float:
    """The least expected log loss of a logistic regression on known probabilities, by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(_MOST_STEPS):
        predicted = expit(features @ weights)
        gradient = features.T @ (predicted - probabilities)
        if np.abs(gradient).max() < 1e-9 * len(features):
            break
        curvature = (features * (predicted * (1 - predicted))[:, None]).T @ features
        weights -= np.linalg.solve(curvature, gradient)
    predicted = expit(features @ weights)
    return float(-np.mean(probabilities * np.log(predicted) + (1 - probabilities) * np.log1p(-predicted)))
