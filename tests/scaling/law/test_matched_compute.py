"""Tests matched compute: recovery of known factors, unmeasured cases, coverage of intervals."""

import math

import numpy as np
import pytest

from wukong_jax.scaling.law.curve import Curve
from wukong_jax.scaling.law.matched_compute import AT_MOST, EXTRAPOLATED, MEASURED, NEVER, NOT_REACHED, compute_to_match

COMPUTE = np.geomspace(0.05, 5, 6)


def make_curve(floor, scale, exponent, compute=COMPUTE, seeds=1, noise=0.0, generator=None):
    """Returns points of a law; noise is relative to the distance from the floor."""
    above = scale * compute**-exponent
    generator = generator or np.random.default_rng(0)
    return Curve(compute, floor + above[:, None] * (1 + noise * generator.normal(size=(len(compute), seeds))))


def test_a_model_matches_itself_at_equal_compute():
    curve = make_curve(0.01, 0.03, 0.5, seeds=3, noise=0.01)
    matched = compute_to_match(curve, curve, resamples=100)
    assert [point.factor for point in matched.points] == pytest.approx([1.0] * 6)
    assert matched.count(MEASURED) == 6
    assert matched.mean == pytest.approx(1.0)
    assert matched.mean_interval.low < 1 < matched.mean_interval.high


def test_a_model_of_five_times_the_cost_needs_five_times_the_compute():
    reference = make_curve(0.0, 0.03, 0.5, seeds=2, noise=1e-4)
    slower = Curve(COMPUTE * 5, reference.losses)
    matched = compute_to_match(slower, reference, resamples=100)
    assert [point.factor for point in matched.points] == pytest.approx([5.0] * 6)
    # And the other way, where the cheap curve lies elsewhere on the axis: between points and past the last one.
    denser = make_curve(0.0, 0.03 * 5**0.5, 0.5, compute=np.geomspace(0.1, 10, 9), seeds=2, noise=0)
    matched = compute_to_match(denser, make_curve(0.0, 0.03, 0.5, seeds=2, noise=0))
    assert [point.factor for point in matched.points] == pytest.approx([5.0] * 6, rel=1e-6)
    assert [point.kind for point in matched.points] == [MEASURED] * 5 + [EXTRAPOLATED]
    assert matched.mean == pytest.approx(5.0, rel=1e-6)


def test_interpolation_is_a_line_in_both_logarithms_above_the_base():
    curve = Curve([1.0, 100.0], [[0.5], [0.32]])
    target = 0.3 + math.sqrt(0.2 * 0.02)  # halfway between in the logarithm above 0.3
    (point,) = compute_to_match(curve, Curve([2.0], [[target]]), base=0.3).points
    assert (point.kind, point.interval) == (MEASURED, None)
    assert point.factor == pytest.approx(10 / 2)
    # A point at the base has no logarithm; the loss itself is interpolated.
    (point,) = compute_to_match(curve, Curve([2.0], [[0.41]]), base=0.32).points
    assert point.factor == pytest.approx(10 / 2)


def test_what_was_not_measured_is_said():
    saturating = make_curve(0.02, 0.01, 1.0, seeds=2, noise=1e-6)
    reference = Curve([0.01, 0.5, 2.0, 4.0], [[0.5, 0.5], [0.04, 0.04], [0.021, 0.021], [0.019, 0.019]])
    matched = compute_to_match(saturating, reference, resamples=100)
    assert [point.kind for point in matched.points] == [AT_MOST, MEASURED, EXTRAPOLATED, NEVER]
    at_most, measured, extrapolated, never = matched.points
    assert at_most.factor == pytest.approx(0.05 / 0.01)
    assert extrapolated.factor == pytest.approx(10 / 2, rel=1e-3)  # 0.02 + 0.01 / 10
    assert never.factor == math.inf
    assert at_most.interval is never.interval is None
    assert matched.mean == pytest.approx(measured.factor)
    # With a known floor of 0 nothing is ever out of reach.
    assert compute_to_match(saturating, reference, floor=0.0, resamples=100).points[3].kind == EXTRAPOLATED


def test_a_single_point_reaches_what_it_reaches():
    matched = compute_to_match(Curve([0.1], [[0.05]]), Curve([0.2, 2.0], [[0.06], [0.01]]))
    assert [point.kind for point in matched.points] == [AT_MOST, NOT_REACHED]
    assert matched.law is None
    assert matched.mean is None


def test_a_model_that_gets_worse_is_as_good_as_its_best_smaller_size():
    bumpy = Curve([1, 2, 4, 8], [[0.4], [0.2], [0.3], [0.1]])
    matched = compute_to_match(bumpy, Curve([1, 2, 3], [[0.2], [0.15], [0.18]]))
    at_best, between, dominated = matched.points
    assert at_best.factor == pytest.approx(2)  # not the 4 that was worse
    assert 4 < between.factor * 2 < 8
    assert dominated.reference_loss == 0.15  # the reference is read in the same way


def test_extrapolation_never_answers_with_compute_that_fell_short():
    # Robust least squares run below the last point; the loss it promises at less compute was not there.
    curve = Curve([1, 2, 4, 8, 16], [[0.4], [0.2], [0.1], [0.05], [0.04]])
    (point,) = compute_to_match(curve, Curve([1.0], [[0.039]]), floor=0.0).points
    assert (point.kind, point.factor) == (EXTRAPOLATED, 16.0)


def test_matching_interval_covers_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(60):
        reference = make_curve(0.0, 0.03, 0.5, compute=np.array([0.7]), seeds=4, noise=0.02, generator=generator)
        curve = make_curve(0.0, 0.03 * 2**0.5, 0.5, seeds=4, noise=0.02, generator=generator)
        (point,) = compute_to_match(curve, reference, floor=0.0, level=0.9, resamples=80).points
        covered.append(point.interval.low <= 2 <= point.interval.high)
    assert 0.78 <= np.mean(covered) <= 1  # 60 curves: three standard errors of 3.9 %
