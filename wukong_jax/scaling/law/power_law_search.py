"""Solves least squares of power laws for many sets of losses at once.

For a given exponent, the law `floor + scale * compute^-exponent` is linear in the other two parameters. Exponents are
therefore searched over a grid, and the best one is refined. This needs no starting point.

Letters: n points, R sets of losses, G exponents of the grid.
"""

import dataclasses

import numpy as np

_GRID = 160  # exponents in the first grid
_ZOOMS, _ZOOM_GRID = 10, 15  # each zoom narrows the logarithm of the exponent by a factor of 7, finally to 4e-9
_FLATTEST, _STEEPEST = 1e-3, 40.0  # exponent times log span: lower values are flat, higher ones are a single step


@dataclasses.dataclass(frozen=True)
class PowerLaws:
    """R laws; powers are of compute / center, to avoid overflow for any unit of compute."""

    floor: np.ndarray  # [R]
    height: np.ndarray  # [R], loss above the floor at the center
    exponent: np.ndarray  # [R]; 0 where the losses do not fall
    center: float

    @property
    def scale(self) -> np.ndarray:
        """Loss above the floor at compute 1, [R]; infinite on overflow."""
        with np.errstate(over="ignore"):
            return self.height * self.center**self.exponent

    def predict(self, compute: np.ndarray) -> np.ndarray:
        """Predicts losses [R, n] at compute [n]."""
        return self.floor[:, None] + self.height[:, None] * (compute / self.center) ** -self.exponent[:, None]

    def compute_for(self, losses: np.ndarray) -> np.ndarray:
        """Returns the compute at which each law reaches losses [R, m]; infinite at or below the floor or if flat."""
        above = losses - self.floor[:, None]
        reached = (above > 0) & (self.exponent > 0)[:, None]
        ratio = np.where(reached, self.height[:, None] / np.where(reached, above, 1), np.inf)
        with np.errstate(over="ignore"):
            return self.center * ratio ** (1 / np.where(self.exponent > 0, self.exponent, 1))[:, None]


@dataclasses.dataclass(frozen=True)
class PowerLawProblem:
    """Weighted least squares of power laws at fixed values of compute, for many sets of losses."""

    compute: np.ndarray  # [n]
    weights: np.ndarray  # [n], weights of the squared residuals
    floor: float | None  # None for a free floor

    @property
    def center(self) -> float:
        """Geometric mean of the compute."""
        return float(np.exp(np.log(self.compute).mean()))

    @property
    def exponents(self) -> np.ndarray:
        """The grid of exponents, [G]."""
        return np.geomspace(_FLATTEST, _STEEPEST, _GRID) / np.ptp(np.log(self.compute))

    def solve(self, losses: np.ndarray) -> PowerLaws:
        """Fits a law to each row of losses, [R, n]; rows that do not fall have exponent 0."""
        exponents = self._search(losses)
        floor, height, _ = self._fit_linear(losses, exponents)
        flat = (height <= 0) | (exponents < self.exponents[1])
        mean = losses @ self.weights / self.weights.sum()
        if self.floor is None:
            floor, height = np.where(flat, np.maximum(mean, 0), floor), np.where(flat, 0, height)
        else:
            height = np.where(flat, np.maximum(mean - self.floor, 0), height)
        return PowerLaws(floor, height, np.where(flat, 0, exponents), self.center)

    def _search(self, losses: np.ndarray) -> np.ndarray:
        """Finds each row's best exponent, [R], on the grid and then on ever finer grids between its neighbours."""
        rows = np.arange(len(losses))
        grid = np.broadcast_to(np.log(self.exponents), (len(losses), _GRID))
        for _ in range(_ZOOMS):
            size = grid.shape[1]
            errors = self._fit_linear(np.repeat(losses, size, axis=0), np.exp(grid).ravel())[2]
            best = errors.reshape(-1, size).argmin(axis=1)
            low, high = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, size - 1)]
            grid = np.linspace(low, high, _ZOOM_GRID, axis=1)
        return np.exp((low + high) / 2)

    def _fit_linear(self, losses: np.ndarray, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fits floor and height, both >= 0, for given exponents.

        Args:
          losses: [R, n].
          exponents: [R].

        Returns:
          Floor, height and weighted sum of squared residuals, [R] each.
        """
        # expm1 stays accurate for small exponents, where all powers are close to 1.
        power = np.expm1(-exponents[:, None] * np.log(self.compute / self.center))
        weights = self.weights
        if self.floor is None:
            share = weights / weights.sum()
            power_mean, loss_mean = power @ share, losses @ share
            centred = power - power_mean[:, None]
            height = ((losses - loss_mean[:, None]) * centred) @ weights / ((centred**2) @ weights)
            height = np.maximum(height, 0)
            floor = loss_mean - height * (1 + power_mean)
            below = floor < 0
            power = power + 1
            through_zero = np.maximum((losses * power) @ weights / ((power**2) @ weights), 0)
            floor, height = np.where(below, 0, floor), np.where(below, through_zero, height)
        else:
            power = power + 1
            floor = np.full(len(losses), self.floor)
            height = np.maximum(((losses - self.floor) * power) @ weights / ((power**2) @ weights), 0)
        residuals = losses - floor[:, None] - height[:, None] * power
        return floor, height, (residuals**2) @ weights
