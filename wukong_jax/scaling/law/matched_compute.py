"""Computes the "compute to match": how many times more compute a model needs to reach a reference's loss.

Letters: n points of the model's curve, R resamples.
"""

import dataclasses
import math

import numpy as np

from wukong_jax.scaling.law.curve import CannotFitError, Curve, Interval, compute_interval
from wukong_jax.scaling.law.fit import PowerLaw, fit_weighted
from wukong_jax.scaling.law.power_law_search import PowerLawProblem

MEASURED, EXTRAPOLATED, NEVER = "measured", "extrapolated", "never"
AT_MOST, NOT_REACHED = "at most", "not reached"


@dataclasses.dataclass(frozen=True)
class MatchedPoint:
    """The compute that a model needs for the loss of a reference's point, as a multiple of that point's compute.

    Kinds:
      measured: interpolated between the model's points.
      extrapolated: beyond the model's largest point, by its law.
      never: the floor of the model's law is above the loss.
      at most: the model's smallest point is already better, so the factor is an upper bound.
      not reached: no point reaches the loss, and no law can be fitted.
    """

    reference_compute: float
    reference_loss: float
    kind: str
    factor: float  # infinite for `never` and `not reached`
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class MatchedCompute:
    """Compute to match at each point of a reference, and the geometric mean over the measured points."""

    points: tuple[MatchedPoint, ...]
    law: PowerLaw | None  # the law used to extrapolate
    mean: float | None  # over the `measured` points; None if there are none
    mean_interval: Interval | None

    def count(self, kind: str) -> int:
        """Returns the number of points of a kind."""
        return sum(point.kind == kind for point in self.points)


def compute_to_match(
    curve: Curve,
    reference: Curve,
    floor: float | None = None,
    base: float = 0.0,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> MatchedCompute:
    """Computes how many times more compute a model needs to reach the loss of each of a reference's points.

    Both curves are replaced by their lower envelopes, the best mean loss at or below each compute, so a size that is
    worse than a smaller one counts as that smaller one. Between two points, the model's loss is interpolated linearly
    in the logarithms of compute and of the loss above `base`.

    Args:
      curve: the model's n points.
      reference: the reference's points.
      floor: floor of the model's law beyond its largest point; None fits it. A floor below what the model can reach
        makes the law, and therefore the factor, too optimistic for the model.
      base: loss that is subtracted before taking logarithms, such as the Bayes loss.
      level: confidence level of the intervals.
      resamples: R; both curves are resampled independently.
      seed: random seed of the resampling; equal seeds give equal intervals.

    Returns:
      A point for each of the reference's, in order of compute. Intervals are None if a point of either curve has only
      one seed, and for kinds other than measured and extrapolated. They may extend to infinity.
    """
    try:
        law, problem = fit_weighted(curve, floor)
    except CannotFitError:
        law, problem = None, None
    compute, budgets = np.asarray(curve.compute), np.asarray(reference.compute)
    targets = np.minimum.accumulate(reference.means)
    kinds, factors = [], []
    for target in targets:
        kind, needed = _interpolate(compute, curve.means, float(target), base)
        if kind == NOT_REACHED and law is not None:
            # The law may reach the loss within the measured range although no measured point does.
            needed = max(law.compute_for(float(target)), float(compute[-1]))
            kind = EXTRAPOLATED if math.isfinite(needed) else NEVER
        kinds.append(kind)
        factors.append(needed)
    factors = np.array(factors) / budgets

    drawn = None
    if curve.has_spread and reference.has_spread:
        drawn = _draw_needed(curve, reference, problem, base, resamples, np.random.default_rng(seed)) / budgets
    points = []
    for i, kind in enumerate(kinds):
        interval = None
        if drawn is not None and kind in (MEASURED, EXTRAPOLATED):
            interval = compute_interval(drawn[:, i], level)
        points.append(MatchedPoint(float(budgets[i]), float(targets[i]), kind, float(factors[i]), interval))
    measured = [i for i, kind in enumerate(kinds) if kind == MEASURED]
    if not measured:
        return MatchedCompute(tuple(points), law, None, None)
    interval = None if drawn is None else compute_interval(np.exp(np.log(drawn[:, measured]).mean(axis=1)), level)
    return MatchedCompute(tuple(points), law, float(np.exp(np.log(factors[measured]).mean())), interval)


def _draw_needed(
    curve: Curve,
    reference: Curve,
    problem: PowerLawProblem | None,
    base: float,
    resamples: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Returns the compute needed for each of the reference's m points, over resampled seeds, [R, m], inf for never."""
    compute = np.asarray(curve.compute)
    losses = curve.resample(resamples, generator)
    targets = np.minimum.accumulate(reference.resample(resamples, generator), axis=1)
    beyond = np.full(targets.shape, np.inf)
    if problem is not None:
        beyond = np.maximum(problem.solve(losses).compute_for(targets), compute[-1])
    for r, i in np.ndindex(targets.shape):
        kind, needed = _interpolate(compute, losses[r], float(targets[r, i]), base)
        if kind != NOT_REACHED:
            beyond[r, i] = needed
    return beyond


def _interpolate(compute: np.ndarray, losses: np.ndarray, target: float, base: float) -> tuple[str, float]:
    """Returns the kind and the least compute at which measured losses reach a target; infinite if none does."""
    best = np.minimum.accumulate(losses)
    if target > best[0]:
        return AT_MOST, float(compute[0])
    if target < best[-1]:
        return NOT_REACHED, math.inf
    i = int(np.argmax(best <= target))
    if best[i] == target:
        return MEASURED, float(compute[i])
    levels = np.array([best[i - 1], best[i], target]) - base
    if levels.min() > 0:
        levels = np.log(levels)
    share = (levels[0] - levels[2]) / (levels[0] - levels[1])
    return MEASURED, float(compute[i - 1] ** (1 - share) * compute[i] ** share)
