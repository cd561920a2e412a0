"""Scaling laws: loss against compute, fitted, and checked on a point held out.

Letters: n points of a curve (sizes of a model), R resamples.

Two forms are fitted. `loss = floor + scale * compute^-exponent`, with a free floor >= 0 or a known one (Bayes' loss; 0
where the loss is already counted from it). And the Wukong paper's (arXiv 2403.02545, section 7.2), which has no floor:
`relative loss in % = -100 + amplitude * compute^-exponent`, relative to one baseline's loss.

Intervals come from resampling seeds, so they hold the noise of training and nothing else: a curve that is no power law
has narrow intervals around a wrong law. The held-out point is the check of that.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from wukong_jax.scaling.law.curve import CannotFitError, Curve, Interval, compute_interval
from wukong_jax.scaling.law.power_law_search import PowerLawProblem, PowerLaws

_HUBER = 1.345  # standard deviations; 95 % as efficient as least squares where the noise is normal (Huber 1964)
_REWEIGHTINGS = 100


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """`loss = floor + scale * compute^-exponent`."""

    floor: float
    scale: float  # what the loss at compute 1 lies above the floor
    exponent: float
    floor_is_free: bool
    points: int  # as many as parameters: the law passes through them and nothing is checked
    relative_error: float  # root mean square over the points, of what is fitted

    @property
    def parameters(self) -> int:
        """How many numbers were fitted."""
        return 3 if self.floor_is_free else 2

    def predict(self, compute: float | np.ndarray) -> np.ndarray:
        """Loss at a compute, of its shape."""
        return self.floor + self.scale * np.asarray(compute, np.float64) ** -self.exponent

    def compute_for(self, loss: float) -> float:
        """The compute at which the law reaches a loss; infinite at the floor and below."""
        if loss <= self.floor:
            return math.inf
        return math.exp(min(math.log(self.scale / (loss - self.floor)) / self.exponent, 700.0))


@dataclasses.dataclass(frozen=True)
class PaperLaw:
    """The Wukong paper's form, `relative loss in % = -100 + amplitude * compute^-exponent`."""

    amplitude: float
    exponent: float  # positive; the paper prints +0.00071 as the power of compute, which cannot fall

    def predict(self, compute: float | np.ndarray) -> np.ndarray:
        """Relative loss in percent, of the shape of `compute`."""
        return -100 + self.amplitude * np.asarray(compute, np.float64) ** -self.exponent


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A law fitted without the curve's largest point, against that point."""

    law: PowerLaw | PaperLaw
    compute: float
    measured: float
    predicted: float
    interval: Interval | None  # of the prediction, with the noise of the point's own seeds; None with one seed

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
        """Whether the interval holds the measured loss; None without one."""
        return None if self.interval is None else self.interval.low <= self.measured <= self.interval.high


def fit_power_law(curve: Curve, floor: float | None = None) -> PowerLaw:
    """Robust least squares of `floor + scale * compute^-exponent` on the points' means.

    Residuals count relative to the loss itself (above the floor, where that is known), as distances do on logarithmic
    axes; Huber's loss on them bounds the pull of one odd point.

    Args:
      curve: n points; n >= 3, or >= 2 with a known floor.
      floor: the loss that infinite compute comes to; None fits it, at 0 or above.

    Raises:
      CannotFitError: too few points, or losses that do not fall like a power of compute.
    """
    return fit_weighted(curve, floor)[0]


def bootstrap_power_law(
    curve: Curve, floor: float | None = None, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of the law's numbers over seeds.

    Each resample is fitted with the fit's own weights (Huber's among them). One that does not fall has exponent 0.

    Args:
      curve: n points.
      floor: as in `fit_power_law`.
      level: share of resamples inside.
      resamples: R.
      seed: of the drawing; equal seeds give equal intervals.

    Returns:
      `floor` (where it is free), `scale` and `exponent` -> interval.

    Raises:
      CannotFitError: as `fit_power_law`, or a point has one seed.
    """
    _, problem = fit_weighted(curve, floor)
    fits = problem.solve(curve.resample(resamples, np.random.default_rng(seed)))
    names = ("floor", "scale", "exponent") if floor is None else ("scale", "exponent")
    return {name: compute_interval(getattr(fits, name), level) for name in names}


def check_held_out(
    curve: Curve, floor: float | None = None, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> HeldOut:
    """Fits all points but the largest and predicts that one.

    Few seeds make the interval too narrow, since the held-out point's own noise is drawn from its few values: of 400
    simulated curves (6 points, noise of 1 %), intervals of 90 % held the point in 82 % with 3 seeds, in 87 % with 6.

    Raises:
      CannotFitError: the points left cannot hold the law.
    """
    if len(curve.compute) < 2:
        raise CannotFitError("one point: nothing is left when it is held out")
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
    """Losses relative to a baseline's, in percent; negative is better. Float64, of the losses' shape."""
    return 100 * (np.asarray(losses, np.float64) / baseline - 1)


def fit_paper_form(compute: Sequence[float], relative_loss: Sequence[float]) -> PaperLaw:
    """Least squares of the paper's form, on the logarithm of 100 + relative loss, where it is a line.

    Over differences of a percent, logarithm and percent agree to a hundredth, and so do the fits.

    Args:
      compute: [n], two or more different values; the paper counts GFLOP per example.
      relative_loss: [n], in percent of a baseline's loss.

    Raises:
      CannotFitError: fewer than two different computes, or losses that do not fall.
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
    """Percentile intervals of the paper form's numbers over the seeds of the curve and of the baseline.

    Args:
      curve: n points of losses, not relative.
      baseline: the baseline's losses, one for each seed; where they are those of a point of the curve, both are
        drawn as one.
      level: share of resamples inside.
      resamples: R.
      seed: of the drawing.

    Returns:
      `amplitude` and `exponent` -> interval.

    Raises:
      CannotFitError: a point or the baseline has one seed.
    """
    generator = np.random.default_rng(seed)
    drawn = curve.resample(resamples, generator)
    own = [index for index, losses in enumerate(curve.losses) if list(losses) == list(baseline)]
    baselines = drawn[:, own[:1]] if own else Curve([1.0], [baseline]).resample(resamples, generator)
    amplitude, exponent = _fit_paper_lines(np.asarray(curve.compute), 100 * (drawn / baselines - 1))
    return {"amplitude": compute_interval(amplitude, level), "exponent": compute_interval(exponent, level)}


def fit_weighted(curve: Curve, floor: float | None) -> tuple[PowerLaw, PowerLawProblem]:
    """The robust fit, and the weighted problem that it is the solution of.

    Raises:
      CannotFitError: as `fit_power_law`.
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
        # The bend of Huber's loss is set once, by the plain fit: found anew each time, it shrinks onto few points.
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
        raise CannotFitError("the loss falls in one step and is flat then: no exponent can be told")
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
    """What a residual is relative to, [n]: the loss above a known floor.

    Never less than the noise over seeds or a tenth of the median: one point that happens to lie on the floor would
    otherwise count for all.
    """
    levels = np.abs(curve.means - (floor or 0))
    variances = [np.var(point, ddof=1) / len(point) for point in curve.losses if len(point) > 1]
    noise = math.sqrt(np.mean(variances)) if variances else 0.0
    least = max(noise, 0.1 * float(np.median(levels))) or float(levels.mean()) or 1.0
    return np.maximum(levels, least)


def _fit_paper_lines(compute: np.ndarray, relative_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes and exponents, [R] each, of relative losses [R, n]."""
    x, y = np.log(compute), np.log(100 + relative_loss)
    centred = x - x.mean()
    slope = (y @ centred) / (centred @ centred)
    return np.exp(y.mean(axis=1) - slope * x.mean()), -slope


def _count_points(count: int) -> str:
    return f"{count} point" if count == 1 else f"{count} points"
