"""Computes the lowest log loss on planted clicks that sums of functions of k fields can reach.

    floor(k) = min E[log loss of sigmoid(sum over all sets of k fields of any function of their values)]

A polynomial of order k in embeddings is such a sum, so no model of that order can go below the floor. (The loss of the
best sum of the planted terms is no such bound: a model can go below it if lower orders carry information about higher
ones.)
"""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit, xlogy

MOST_ROWS = 1 << 17  # maximum number of combinations of values to enumerate


def enumerate_values(fields: int, values: int) -> np.ndarray:
    """Enumerates all possible rows as [values ** fields, fields] int32 ids from 1."""
    grid = np.indices((values,) * fields, dtype=np.int32).reshape(fields, -1)
    return np.ascontiguousarray(grid.T) + np.int32(1)


def compute_order_floors(
    ids: np.ndarray, chance: np.ndarray, probability: np.ndarray, values: int, orders: Sequence[int]
) -> dict[str, float]:
    """Computes the lowest expected log loss of functions of each order, by convex optimization over all possible rows.

    Args:
      ids: [R, fields] all rows, see `enumerate_values`.
      chance: [R] probability of drawing each row, sum 1.
      probability: [R] probability of a positive label.
      values: number of values of each field.
      orders: orders, ascending.

    Returns:
      Log loss in nats by order, starting with "0" (predicting the base rate).
    """
    return {str(order): _find_floor(ids, chance, probability, values, order) for order in (0, *orders)}


def _find_floor(ids: np.ndarray, chance: np.ndarray, probability: np.ndarray, values: int, order: int) -> float:
    if order == ids.shape[1]:
        return _expect_log_loss(probability, chance, probability)
    subsets = list(itertools.combinations(range(ids.shape[1]), order))
    places = values ** np.arange(order)
    columns = np.stack([(ids[:, list(subset)] - 1) @ places for subset in subsets], axis=1)
    columns = columns.astype(np.int64) + values**order * np.arange(len(subsets))
    pointers = np.arange(0, columns.size + 1, len(subsets))
    features = csr_matrix((np.ones(columns.size), columns.ravel(), pointers))

    def lose(weights: np.ndarray) -> tuple[float, np.ndarray]:
        predicted = expit(features @ weights)
        return _expect_log_loss(predicted, chance, probability), features.T @ (chance * (predicted - probability))

    found = minimize(lose, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    return float(found.fun)


def _expect_log_loss(predicted: np.ndarray, chance: np.ndarray, probability: np.ndarray) -> float:
    return float(-chance @ (xlogy(probability, predicted) + xlogy(1 - probability, 1 - predicted)))
