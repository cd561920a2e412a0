"""Least squares of a power law, for many sets of losses at once.

For a given exponent the law `floor + scale * compute^-exponent` is linear in the other two numbers. So exponents are
searched over a grid and the best is refined: there is no start to choose and no local minimum to be caught in.

Letters: n points, R sets of losses, G exponents of the grid.
"""

import dataclasses

import numpy as np

_GRID = 160  # exponents tried at first
_ZOOMS, _ZOOM_GRID = 10, 15  # each zoom narrows the logarithm of the exponent by 7: to 4e-9 in the end
_FLATTEST, _STEEPEST = 1e-3, 40.0  # exponent times log span: below, no fall can be seen; above, one step down


@dataclasses.dataclass(frozen=True)
class PowerLaws:
    """R laws as columns. Powers are taken of compute / center, whose numbers stay in range for any unit."""

    floor: np.ndarray  # [R]
    height: np.ndarray  # [R], above the floor at the center
    exponent: np.ndarray  # [R]; 0 where the losses do not fall
    center: float

    @property
    def scale(self) -> np.ndarray:
        """Height above the floor at compute 1, [R]; infinite where that has no number."""
        with np.errstate(over="ignore"):
            return self.height * self.center**self.exponent

    def predict(self, compute: np.ndarray) -> np.ndarray:
        """Losses [R, n] at computes [n]."""
        return self.floor[:, None] + self.height[:, None] * (compute / self.center) ** -self.exponent[:, None]

    def compute_for(self, losses: np.ndarray) -> np.ndarray:
        """Computes at which each law reaches losses [R, m]; infinite at its floor and below, or where it is flat."""
        above = losses - self.floor[:, None]
        reached = (above > 0) & (self.exponent > 0)[:, None]
        ratio = np.where(reached, self.height[:, None] / np.where(reached, above, 1), np.inf)
        with np.errstate(over="ignore"):
            return self.center * ratio ** (1 / np.where(self.exponent > 0, self.exponent, 1))[:, None]


@dataclasses.dataclass(frozen=True)
class PowerLawProblem:
    """Weighted least squares of the law over fixed computes, for many sets of losses at once."""

    compute: np.ndarray  # [n]
    weights: np.ndarray  # [n], of squared residuals
    floor: float | None

    @property
    def center(self) -> float:
        """The computes' geometric mean."""
        return float(np.exp(np.log(self.compute).mean()))

    @property
    def exponents(self) -> np.ndarray:
        """The grid, [G]."""
        return np.geomspace(_FLATTEST, _STEEPEST, _GRID) / np.ptp(np.log(self.compute))

    def solve(self, losses: np.ndarray) -> PowerLaws:
        """Best law of each row of losses, [R, n]; a row that does not fall has exponent 0."""
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
        """Each row's best exponent, [R]: of the whole grid, then between that one's neighbours, again and again."""
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
        """Best floor and height >= 0 for given exponents.

        Args:
          losses: [R, n].
          exponents: [R].

        Returns:
          floor, height and weighted sum of squares, [R] each.
        """
        # expm1 keeps its digits where the exponent is small and the power close to 1 everywhere.
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
