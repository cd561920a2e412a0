"""Compute to match: how many times more compute a model needs for a reference's loss.

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
    """How many times the compute of a reference's point a model needs for that point's loss.

    Kinds: `measured` between the model's points; `extrapolated` by its law past its largest point; `never`, its law's
    floor lies above; `at most`, its smallest point is already as good and the factor is a bound; `not reached` by its
    points, and they hold no law.
    """

    reference_compute: float
    reference_loss: float
    kind: str
    factor: float  # infinite for `never` and `not reached`
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class MatchedCompute:
    """Compute to match at each point of a reference, and the geometric mean of what is measured."""

    points: tuple[MatchedPoint, ...]
    law: PowerLaw | None  # what extrapolation used
    mean: float | None  # over the `measured` points; None without any
    mean_interval: Interval | None

    def count(self, kind: str) -> int:
        """Number of points of a kind."""
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
    """How many times more compute a model needs for a reference's loss, at each of the reference's points.

    Both curves are read as their lower envelope: the best mean loss at or below a compute. A model that gets worse with
    size is then as good as its best smaller one. Between two points the model's loss is a line in the logarithms of
    compute and of the loss above `base`.

    Args:
      curve: the model's n points.
      reference: the reference's points.
      floor: of the model's law, for what lies past its largest point; None fits it. A floor below what the model can
        reach makes the law, and so the factor, too kind to the model.
      base: loss that logarithms are taken above: Bayes' loss, or 0.
      level: share of resamples inside the intervals.
      resamples: R; both curves are drawn anew each time, each on its own.
      seed: of the drawing; equal seeds give equal intervals.

    Returns:
      A point for each of the reference's, in the order of compute. Intervals are None where a curve has a point of one
      seed, and for the kinds that are bounds; they may end at infinity.
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
            # The law need not pass through the best point; no compute that was measured and fell short is the answer.
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
    """Compute needed for each of the reference's m points, over resampled seeds, [R, m]; infinite out of reach."""
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
    """The least compute whose measured losses reach a loss, and how it is known; infinite where none does."""
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
