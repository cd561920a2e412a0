"""Scaling curves: a model's losses over compute, with one point per size and several seeds per point.

Letters: n points of a curve (sizes of a model), S seeds of a point, R resamples.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class CannotFitError(ValueError):
    """A law cannot be fitted to the points; the message gives the reason in words for a report."""


class Interval(NamedTuple):
    """A confidence interval from percentiles."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """The losses of one model over compute, with a point for each size.

    Raises:
      ValueError: compute is not positive, or a point has no or non-finite losses (leave such points out).
    """

    compute: Sequence[float]  # [n], positive; in any unit, which must be the same for all curves of a comparison
    losses: Sequence[Sequence[float]]  # n points with one loss per seed; the number of seeds S may differ

    def __post_init__(self) -> None:
        if len(self.compute) != len(self.losses):
            raise ValueError(f"compute has {len(self.compute)} points, losses {len(self.losses)}")
        if not all(c > 0 and math.isfinite(c) for c in self.compute):
            raise ValueError(f"compute = {list(self.compute)}: must be positive and finite")
        if not all(len(point) and np.all(np.isfinite(point)) for point in self.losses):
            raise ValueError(f"losses = {list(self.losses)}: each point needs one finite loss or more")
        order = np.argsort(self.compute, kind="stable")
        object.__setattr__(self, "compute", tuple(float(self.compute[i]) for i in order))
        object.__setattr__(self, "losses", tuple(tuple(float(loss) for loss in self.losses[i]) for i in order))

    @property
    def means(self) -> np.ndarray:
        """Mean loss over seeds, float64 [n]."""
        return np.array([np.mean(point) for point in self.losses])

    @property
    def has_spread(self) -> bool:
        """Whether every point has two seeds or more."""
        return bool(self.losses) and all(len(point) > 1 for point in self.losses)

    def resample(self, resamples: int, generator: np.random.Generator) -> np.ndarray:
        """Resamples the seeds of each point with replacement and returns their means.

        S resampled seeds vary less than S new ones would, by sqrt((S - 1) / S), so deviations from the mean are
        multiplied by the inverse. Without this correction, intervals from three seeds would be a fifth too narrow.

        Returns:
          float64 [R, n] mean losses.

        Raises:
          CannotFitError: a point has only one seed.
        """
        if not self.has_spread:
            raise CannotFitError("no interval: a point has one seed")
        columns = []
        for point in self.losses:
            seeds = len(point)
            drawn = np.asarray(point)[generator.integers(seeds, size=(resamples, seeds))].mean(axis=1)
            columns.append(np.mean(point) + (drawn - np.mean(point)) * math.sqrt(seeds / (seeds - 1)))
        return np.stack(columns, axis=1)


def compute_interval(values: np.ndarray, level: float) -> Interval:
    """Computes the percentile interval that contains the share `level` of the resampled values, [R]."""
    # The ends are values from the sample, without interpolation, because values may be infinite.
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="closest_observation")
    return Interval(float(low), float(high))
