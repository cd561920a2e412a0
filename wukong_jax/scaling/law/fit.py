"""Fits scaling laws of loss against compute and checks them on a held-out point.

Letters: n points of a curve (sizes of a model), R resamples.

Two forms are fitted. The first is `loss = floor + scale * compute^-exponent`, with a free floor >= 0 or a known one
(the Bayes loss, or 0 for losses relative to it). The second is the Wukong paper's form (arXiv 2403.02545, section 7.2),
which has no floor: `relative loss in % = -100 + amplitude * compute^-exponent`, relative to a baseline's loss.

Confidence intervals come from resampling seeds, so they cover only the noise of training. If a curve is not a power
law, the interval around the wrong law is still narrow; the held-out point checks this.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from wukong_jax.scaling.law.curve import CannotFitError, Curve, Interval, compute_interval
from wukong_jax.scaling.law.power_law_search import PowerLawProblem, PowerLaws

_HUBER = 1.345  # standard deviations; 95 % as efficient as least squares for normal noise (Huber 1964)
_REWEIGHTINGS = 100


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """`loss = floor + scale * compute^-exponent`."""

    floor: float
    scale: float  # loss above the floor at compute 1
    exponent: float
    floor_is_free: bool
    points: int  # number of points; if equal to `parameters`, the law passes through them, and its form is not tested
    relative_error: float  # root mean square of the relative residuals

    @property
    def parameters(self) -> int:
        """Number of fitted parameters."""
        return 3 if self.floor_is_free else 2

    def predict(self, compute: float | np.ndarray) -> np.ndarray:
        """Predicts the loss at the given compute, with the shape of `compute`."""
        return self.floor + self.scale * np.asarray(compute, np.float64) ** -self.exponent

    def compute_for(self, loss: float) -> float:
        """Returns the compute at which the law reaches a loss; infinite for losses at or below the floor."""
        if loss <= self.floor:
            return math.inf
        return math.exp(min(math.log(self.scale / (loss - self.floor)) / self.exponent, 700.0))


@dataclasses.dataclass(frozen=True)
class PaperLaw:
    """The Wukong paper's form, `relative loss in % = -100 + amplitude * compute^-exponent`."""

    amplitude: float
    exponent: float  # positive; the paper prints the power +0.00071 of compute, with which the loss would not fall

    def predict(self, compute: float | np.ndarray) -> np.ndarray:
        """Predicts the relative loss in percent, with the shape of `compute`."""
        return -100 + self.amplitude * np.asarray(compute, np.float64) ** -self.exponent


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A law fitted without the curve's largest point, and its prediction for that point."""

    law: PowerLaw | PaperLaw
    compute: float
    measured: float
    predicted: float
    interval: Interval | None  # of the prediction, including the noise of the point's seeds; None with one seed

    @property
    def error(self) -> float:
        """Predicted minus measured."""
        return self.predicted - self.measured

    @property
    def relative_error(self) -> float:
        """The error as a share of the measured loss."""
        return self.error / self.measured

    @property
    def covered(self) -> bool | None:
        """Whether the interval contains the measured loss; None without an interval."""
        return None if self.interval is None else self.interval.low <= self.measured <= self.interval.high


def fit_power_law(curve: Curve, floor: float | None = None) -> PowerLaw:
    """Fits `floor + scale * compute^-exponent` to the points' mean losses by robust least squares.

    Residuals are relative to the loss (above the floor if that is known), like distances on logarithmic axes. Huber's
    loss limits the influence of outliers.

    Args:
      curve: n points; n >= 3, or n >= 2 with a known floor.
      floor: the loss in the limit of infinite compute; None fits a floor >= 0.

    Raises:
      CannotFitError: there are too few points, or the losses do not fall like a power of compute.
    """
    return fit_weighted(curve, floor)[0]


def bootstrap_power_law(
    curve: Curve, floor: float | None = None, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Computes confidence intervals of the law's parameters by resampling seeds.

    Each resample is fitted with the weights of the original fit, including Huber's. A resample whose loss does not
    fall has exponent 0.

    Args:
      curve: n points.
      floor: as in `fit_power_law`.
      level: confidence level of the intervals.
      resamples: R.
      seed: random seed of the resampling; equal seeds give equal intervals.

    Returns:
      Intervals of `floor` (if it is free), `scale` and `exponent`, by name.

    Raises:
      CannotFitError: as in `fit_power_law`, or a point has only one seed.
    """
    _, problem = fit_weighted(curve, floor)
    fits = problem.solve(curve.resample(resamples, np.random.default_rng(seed)))
    names = ("floor", "scale", "exponent") if floor is None else ("scale", "exponent")
    return {name: compute_interval(getattr(fits, name), level) for name in names}


def check_held_out(
    curve: Curve, floor: float | None = None, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> HeldOut:
    """Fits a law to all points except the one of largest compute, and predicts that one.

    With few seeds the interval is too narrow, since the noise of the held-out point is resampled from few values: in
    400 simulated curves (6 points, 1 % noise), 90 % intervals contained the point in 82 % of cases with 3 seeds and in
    87 % with 6.

    Raises:
      CannotFitError: the law cannot be fitted to the remaining points.
    """
    if len(curve.compute) < 2:
        raise CannotFitError("only one point: none is left to fit when it is held out")
    rest = Curve(curve.compute[:-1], curve.losses[:-1])
    law, problem = fit_weighted(rest, floor)
    compute, measured = curve.compute[-1], float(curve.means[-1])
    interval = None
    if curve.has_spread:
        generator = np.random.default_rng(seed)
        predictions = problem.solve(rest.resample(resamples, generator)).predict(np.array([compute]))[:, 0]
        noise = Curve(curve.compute[-1:], curve.losses[-1:]).resample(resamples, generator)[:, 0] - measured
        interval = compute_interval(predictions + noise, level)
    return HeldOut(law, compute, measured, float(law.predict(compute)), interval)


def compute_relative_loss(losses: Sequence[float] | np.ndarray, baseline: float) -> np.ndarray:
    """Computes losses relative to a baseline's in percent (negative is better), float64 with the shape of `losses`."""
    return 100 * (np.asarray(losses, np.float64) / baseline - 1)


def fit_paper_form(compute: Sequence[float], relative_loss: Sequence[float]) -> PaperLaw:
    """Fits the paper's form by linear least squares on the logarithm of 100 + relative loss.

    For differences of about a percent, fits in logarithm and in percent agree to within a hundredth.

    Args:
      compute: [n], two or more different values; the paper uses GFLOP per example.
      relative_loss: [n], relative to a baseline's loss, in percent.

    Raises:
      CannotFitError: there are fewer than two different values of compute, or the losses do not fall.
    """
    if len(set(compute)) < 2:
        raise CannotFitError(f"{_count_points(len(set(compute)))} for 2 parameters")
    amplitude, exponent = _fit_paper_lines(np.asarray(compute, np.float64), np.asarray([relative_loss], np.float64))
    if exponent[0] <= 0:
        raise CannotFitError("the loss does not fall with compute")
    return PaperLaw(float(amplitude[0]), float(exponent[0]))


def bootstrap_paper_form(
    curve: Curve, baseline: Sequence[float], level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Computes confidence intervals of the paper form's parameters by resampling seeds of the curve and the baseline.

    Args:
      curve: n points with absolute losses.
      baseline: the baseline's losses, one per seed; if they equal those of a point of the curve, both are resampled
        together.
      level: confidence level of the intervals.
      resamples: R.
      seed: random seed of the resampling.

    Returns:
      Intervals of `amplitude` and `exponent`, by name.

    Raises:
      CannotFitError: a point or the baseline has only one seed.
    """
    generator = np.random.default_rng(seed)
    drawn = curve.resample(resamples, generator)
    own = [index for index, losses in enumerate(curve.losses) if list(losses) == list(baseline)]
    baselines = drawn[:, own[:1]] if own else Curve([1.0], [baseline]).resample(resamples, generator)
    amplitude, exponent = _fit_paper_lines(np.asarray(curve.compute), 100 * (drawn / baselines - 1))
    return {"amplitude": compute_interval(amplitude, level), "exponent": compute_interval(exponent, level)}


def fit_weighted(curve: Curve, floor: float | None) -> tuple[PowerLaw, PowerLawProblem]:
    """Returns the robust fit and the weighted least-squares problem that it solves.

    Raises:
      CannotFitError: as in `fit_power_law`.
    """
    parameters = 3 if floor is None else 2
    different = len(set(curve.compute))
    if different < parameters:
        raise CannotFitError(f"{_count_points(different)} for {parameters} parameters")
    compute, means = np.asarray(curve.compute), curve.means
    yardstick = _measure_yardstick(curve, floor)
    problem = PowerLawProblem(compute, yardstick**-2.0, floor)
    fits, residuals = _solve_one(problem, means, yardstick)
    spare = len(means) - parameters
    if spare > 0:
        # The threshold of Huber's loss comes from the unweighted fit. If it were updated in each iteration, it would
        # shrink until few points determine the fit.
        bend = _HUBER * 1.4826 * float(np.median(np.abs(residuals))) * math.sqrt(len(means) / spare)
        for _ in range(_REWEIGHTINGS if bend > 1e-12 else 0):
            huber = np.minimum(1, bend / np.maximum(np.abs(residuals), 1e-300))
            problem = PowerLawProblem(compute, huber * yardstick**-2.0, floor)
            last = residuals
            fits, residuals = _solve_one(problem, means, yardstick)
            if np.abs(residuals - last).max() < 1e-10:
                break
    if fits.exponent[0] == 0:
        raise CannotFitError("the loss does not fall with compute")
    if fits.exponent[0] >= problem.exponents[-2]:
        raise CannotFitError("the loss falls in one step and is then flat, so the exponent is undetermined")
    law = PowerLaw(
        float(fits.floor[0]),
        float(fits.scale[0]),
        float(fits.exponent[0]),
        floor is None,
        len(means),
        float(np.sqrt(np.mean(residuals**2))),
    )
    return law, problem


def _solve_one(problem: PowerLawProblem, means: np.ndarray, yardstick: np.ndarray) -> tuple[PowerLaws, np.ndarray]:
    fits = problem.solve(means[None])
    return fits, (means - fits.predict(problem.compute)[0]) / yardstick


def _measure_yardstick(curve: Curve, floor: float | None) -> np.ndarray:
    """Returns the values that residuals are relative to, [n]: the losses above a known floor.

    They are at least the noise over seeds and a tenth of the median. Otherwise, a single point that happens to lie
    close to the floor would dominate the fit.
    """
    levels = np.abs(curve.means - (floor or 0))
    variances = [np.var(point, ddof=1) / len(point) for point in curve.losses if len(point) > 1]
    noise = math.sqrt(np.mean(variances)) if variances else 0.0
    least = max(noise, 0.1 * float(np.median(levels))) or float(levels.mean()) or 1.0
    return np.maximum(levels, least)


def _fit_paper_lines(compute: np.ndarray, relative_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits amplitudes and exponents, [R] each, to relative losses [R, n]."""
    x, y = np.log(compute), np.log(100 + relative_loss)
    centred = x - x.mean()
    slope = (y @ centred) / (centred @ centred)
    return np.exp(y.mean(axis=1) - slope * x.mean()), -slope


def _count_points(count: int) -> str:
    return f"{count} point" if count == 1 else f"{count} points"
