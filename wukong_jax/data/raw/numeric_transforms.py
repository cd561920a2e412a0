"""From raw numbers to model inputs: the transforms a schema can name, as pure functions of NumPy arrays."""

import numpy as np

from wukong_jax.schema import NumericTransform


def apply_transform(values: np.ndarray, transform: NumericTransform, boundaries: tuple[float, ...] = ()) -> np.ndarray:
    """Applies a transform that needs no statistics of the data.

    log1p is ln(1 + max(x, 0)): counts such as Criteo's second column hold a few negative numbers that stand for
    "none", so they become 0. criteo_log is floor(ln(x)^2) for x > 2 and x cut to its integer part otherwise, the
    convention of the published Criteo baselines (3 and 1 share a value). bucketise gives the number of boundaries
    at or below x. standardise leaves the values, since it needs the mean first: `standardise`.

    Args:
      values: [n] float64, finite.
      transform: which.
      boundaries: of bucketise, ascending.

    Returns:
      [n] float64.
    """
    if transform == "log1p":
        return np.log1p(np.maximum(values, 0.0))
    if transform == "criteo_log":
        large = np.maximum(values, 2.0)
        return np.where(values > 2.0, np.floor(np.log(large) ** 2), np.trunc(values))
    if transform == "bucketise":
        return np.searchsorted(np.asarray(boundaries), values, side="right").astype(np.float64)
    return values


def standardise(values: np.ndarray, mean: np.ndarray, standard_deviation: np.ndarray) -> np.ndarray:
    """(x - mean) / standard deviation; a column that never varies becomes 0.

    Args:
      values: [n, columns] float64.
      mean: [columns] float64.
      standard_deviation: [columns] float64.

    Returns:
      [n, columns] float64.
    """
    varies = standard_deviation > 0
    return np.where(varies, (values - mean) / np.where(varies, standard_deviation, 1.0), 0.0)


class RunningMoments:
    """Mean and variance of columns over many chunks, merged exactly (Chan, Golub and LeVeque 1983)."""

    def __init__(self, columns: int) -> None:
        """Starts with no rows."""
        self.rows = 0
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)

    def add(self, values: np.ndarray) -> None:
        """Adds rows.

        Args:
          values: [n, columns] float64.
        """
        rows = len(values)
        if rows == 0:
            return
        mean = values.mean(axis=0)
        total = self.rows + rows
        difference = mean - self.mean
        self._squares += ((values - mean) ** 2).sum(axis=0) + difference**2 * (self.rows * rows / total)
        self.mean += difference * (rows / total)
        self.rows = total

    def column(self, index: int) -> tuple[float, float]:
        """Mean and population standard deviation of one column."""
        return float(self.mean[index]), float(np.sqrt(self._squares[index] / max(self.rows, 1)))
