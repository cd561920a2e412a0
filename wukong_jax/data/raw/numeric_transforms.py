"""Implements the numeric transforms of schemas as pure functions of NumPy arrays."""

import dataclasses

import numpy as np

from wukong_jax.schema import NumericTransform

FLOAT32_TINY = float(np.finfo(np.float32).tiny)  # the smallest normal number
_ROUNDING = 1e-12  # of a column's largest magnitude; a deviation below it is the error of a sum


def apply_transform(values: np.ndarray, transform: NumericTransform, boundaries: tuple[float, ...] = ()) -> np.ndarray:
    """Applies a transform that needs no statistics of the data.

    log1p is ln(1 + max(x, 0)): counts such as Criteo's second column contain a few negative numbers that mean "none",
    which become 0. criteo_log is floor(ln(x)^2) for x > 2, else the integer part of x, as in the published Criteo
    baselines (3 and 1 get the same value). bucketise returns the number of boundaries at or below x. standardise
    returns the values unchanged, since it needs the mean first; see the function `standardise`.

    Args:
      values: [n] float64, finite.
      transform: name of the transform.
      boundaries: ascending boundaries for bucketise.

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
    """Computes (x - mean) / standard deviation; constant columns become 0.

    Args:
      values: [n, columns] float64.
      mean: [columns] float64.
      standard_deviation: [columns] float64.

    Returns:
      [n, columns] float64.
    """
    varies = standard_deviation > 0
    return np.where(varies, (values - mean) / np.where(varies, standard_deviation, 1.0), 0.0)


def to_float32(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Casts numbers to the type in which they are stored.

    Args:
      values: [n] float64.

    Returns:
      [n] float32, 0 where float32 does not hold the number; and [n] bool, True there.
    """
    with np.errstate(over="ignore"):
        stored = values.astype(np.float32)
    beyond = ~np.isfinite(stored)
    return (np.where(beyond, np.float32(0), stored) if beyond.any() else stored), beyond


@dataclasses.dataclass(frozen=True)
class ChunkMoments:
    """Moments of the rows of one chunk, [columns] float64 each."""

    rows: int
    mean: np.ndarray
    squares: np.ndarray  # summed squares of the differences from the mean
    smallest: np.ndarray
    largest: np.ndarray


class RunningMoments:
    """Computes mean and variance of columns over many chunks (Chan, Golub and LeVeque 1983)."""

    def __init__(self, columns: int) -> None:
        """Creates moments of zero rows."""
        self.rows = 0
        self.chunks: list[ChunkMoments] = []
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._smallest = np.full(columns, np.inf)
        self._largest = np.full(columns, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Adds rows.

        Args:
          values: [n, columns] float64, each within float32, so that no sum of squares overflows.
        """
        if len(values) == 0:
            return
        mean = values.mean(axis=0)
        squares = ((values - mean) ** 2).sum(axis=0)
        self.merge(ChunkMoments(len(values), mean, squares, values.min(axis=0), values.max(axis=0)))

    def merge(self, chunk: ChunkMoments) -> None:
        """Adds a chunk; the same chunks in the same order give the same bits, whoever computed them."""
        self.chunks.append(chunk)
        self._smallest = np.minimum(self._smallest, chunk.smallest)
        self._largest = np.maximum(self._largest, chunk.largest)
        total = self.rows + chunk.rows
        difference = chunk.mean - self.mean
        self._squares += chunk.squares + difference**2 * (self.rows * chunk.rows / total)
        self.mean += difference * (chunk.rows / total)
        self.rows = total

    def column(self, index: int) -> tuple[float, float]:
        """Returns the mean and population standard deviation of one column; 0 if it is no more than rounding noise."""
        deviation = float(np.sqrt(self._squares[index] / max(self.rows, 1)))
        smallest, largest = float(self._smallest[index]), float(self._largest[index])
        noise = _ROUNDING * max(abs(smallest), abs(largest)) if self.rows else 0.0
        constant = smallest == largest or deviation <= noise
        return float(self.mean[index]), 0.0 if constant else deviation
