"""Tests scaling laws: recovery of known laws, slow twins, coverage of intervals, edge cases."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from wukong_jax.scaling.law.curve import CannotFitError, Curve
from wukong_jax.scaling.law.fit import (
    PaperLaw,
    bootstrap_paper_form,
    bootstrap_power_law,
    check_held_out,
    compute_relative_loss,
    fit_paper_form,
    fit_power_law,
)

COMPUTE = np.geomspace(0.05, 5, 6)
# Wukong's rows of the paper's Table 5, task 1: GFLOP per example, relative log loss in percent.
PRINTED = ((0.53, 1.25, 2.12, 5.6, 22.23, 61, 108), (-0.35, -0.45, -0.53, -0.60, -0.67, -0.70, -0.76))


def make_curve(floor, scale, exponent, compute=COMPUTE, seeds=1, noise=0.0, generator=None):
    """Returns points of a law; noise is relative to the distance from the floor."""
    above = scale * compute**-exponent
    generator = generator or np.random.default_rng(0)
    return Curve(compute, floor + above[:, None] * (1 + noise * generator.normal(size=(len(compute), seeds))))


@pytest.mark.parametrize(
    ("floor", "scale", "exponent"), [(0, 0.05, 0.4), (0.01, 0.03, 0.5), (0.35, 0.02, 0.3), (0.3, 0.001, 1.5)]
)
def test_known_law_comes_back_from_points_without_noise(floor, scale, exponent):
    curve = make_curve(floor, scale, exponent)
    # The search ends at a relative 4e-9 of the exponent; a thousand times that is asked for.
    for law in (fit_power_law(curve), fit_power_law(curve, floor=floor)):
        np.testing.assert_allclose([law.scale, law.exponent], [scale, exponent], rtol=4e-6)
        assert law.floor == pytest.approx(floor, abs=1e-7)
        assert law.relative_error < 1e-7
        np.testing.assert_allclose(law.predict(COMPUTE), curve.means, rtol=1e-6)
        assert law.compute_for(float(law.predict(0.7))) == pytest.approx(0.7)
    assert fit_power_law(curve).parameters == 3
    assert fit_power_law(curve, floor=floor).parameters == 2


def test_known_law_comes_back_from_noisy_points():
    law = fit_power_law(make_curve(0.01, 0.03, 0.5, seeds=3, noise=0.01))
    # Three standard errors of a thousand such curves, measured: floor 0.00038, scale 0.00047, exponent 0.0084.
    assert law.floor == pytest.approx(0.01, abs=0.0012)
    assert law.scale == pytest.approx(0.03, abs=0.0014)
    assert law.exponent == pytest.approx(0.5, abs=0.026)


def test_points_in_any_order_and_unit_give_one_law():
    curve = make_curve(0.01, 0.03, 0.5, seeds=2, noise=0.05)
    shuffled = Curve(curve.compute[::-1], curve.losses[::-1])
    assert fit_power_law(shuffled) == fit_power_law(curve)
    in_flops = fit_power_law(Curve(np.array(curve.compute) * 1e6, curve.losses))
    assert in_flops.exponent == pytest.approx(fit_power_law(curve).exponent, rel=1e-6)
    np.testing.assert_allclose(in_flops.predict(2e6), fit_power_law(curve).predict(2.0), rtol=1e-9)


@pytest.mark.parametrize("floor", [None, 0.005])
def test_plain_fit_is_no_worse_than_a_search_over_all_three_numbers(floor):
    curve = make_curve(0.01, 0.03, 0.5, compute=COMPUTE[:4], noise=0.2)
    few = Curve(curve.compute[:3], curve.losses[:3]) if floor is None else Curve(curve.compute[:2], curve.losses[:2])
    # With as many points as parameters the law passes through them, unless a bound (floor, scale >= 0) forbids it.
    law = fit_power_law(few, floor)
    yardstick = few.means - (floor or 0)

    floors = np.array([floor]) if floor is not None else np.linspace(0, few.means.min(), 40)
    a, b, c = (axis[..., None] for axis in np.meshgrid(floors, np.geomspace(1e-3, 1, 90), np.geomspace(0.01, 8, 90)))

    def error(a, b, c):
        return (((few.means - a - b * np.array(few.compute) ** -c) / yardstick) ** 2).sum(axis=-1)

    assert error(law.floor, law.scale, law.exponent) <= error(a, b, c).min()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("floor", [None, 0.008])
def test_robust_fit_is_the_minimum_that_general_descent_finds(seed, floor):
    clean = make_curve(0.01, 0.03, 0.5, seeds=3, noise=0.03, generator=np.random.default_rng(seed))
    losses = [list(point) for point in clean.losses]
    losses[seed + 1] = [1.5 * loss for loss in losses[seed + 1]]
    curve = Curve(COMPUTE, losses)
    law = fit_power_law(curve, floor)
    compute, means = COMPUTE, curve.means
    noise = np.sqrt(np.mean([np.var(point, ddof=1) / 3 for point in curve.losses]))
    yardstick = np.maximum(means - (floor or 0), noise)

    def residuals(numbers):
        a, b, c = numbers if floor is None else (floor, *numbers)
        return (a + b * compute**-c - means) / yardstick

    def descend(loss, bend):
        starts = itertools.product([0.0, 0.005] if floor is None else [None], [0.01, 0.1], [0.2, 1.0])
        found = []
        for start in starts:
            numbers = [number for number in start if number is not None]
            bounds = ([0] * len(numbers), np.inf)
            options = {"loss": loss, "f_scale": bend, "xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}
            found.append(least_squares(residuals, numbers, bounds=bounds, x_scale=[0.01] * len(numbers), **options))
        return min(found, key=lambda result: result.cost)

    plain = descend("linear", 1.0)
    spare = len(means) - len(plain.x)
    bend = 1.345 * 1.4826 * np.median(np.abs(plain.fun)) * math.sqrt(len(means) / spare)
    theirs = descend("huber", bend)
    ours = residuals([law.floor, law.scale, law.exponent][-len(theirs.x) :]) / bend
    cost = 0.5 * bend**2 * np.where(np.abs(ours) <= 1, ours**2, 2 * np.abs(ours) - 1).sum()
    assert np.abs(theirs.fun).max() > bend  # Huber's loss is at work
    # Descent stops short along flat valleys; ours may be lower, never higher by more than its own end of search.
    assert cost <= theirs.cost * (1 + 1e-6)
    np.testing.assert_allclose(law.predict(compute), means + theirs.fun * yardstick, rtol=2e-3)


def test_one_odd_point_pulls_less_than_in_least_squares():
    compute = np.geomspace(0.05, 5, 8)
    losses = 0.03 * compute**-0.5
    losses[-1] *= 1.5
    plain = -np.polyfit(np.log(compute), np.log(losses), 1)[0]
    robust = fit_power_law(Curve(compute, losses[:, None]), floor=0).exponent
    assert abs(robust - 0.5) < 0.5 * abs(plain - 0.5)


@pytest.mark.parametrize(
    ("compute", "losses", "floor", "reason"),
    [
        ([1, 2], [[0.2], [0.1]], None, "2 points for 3 parameters"),
        ([1], [[0.2]], 0, "1 point for 2 parameters"),
        ([1, 1, 2], [[0.2], [0.2], [0.1]], None, "2 points for 3 parameters"),  # as two sizes of one cost
        ([1, 2, 4, 8], [[0.1], [0.12], [0.13], [0.15]], None, "does not fall"),
        ([1, 2, 4, 8], [[0.1], [0.12], [0.13], [0.15]], 0, "does not fall"),
        ([1, 2, 4, 8], [[0.1]] * 4, None, "does not fall"),
        ([1, 2, 4, 8], [[0.1]] * 4, 0.1, "does not fall"),
        ([1, 2, 4, 8], [[0.2], [0.1], [0.1], [0.1]], None, "falls in one step"),
    ],
)
def test_points_that_hold_no_law_say_why(compute, losses, floor, reason):
    with pytest.raises(CannotFitError, match=reason):
        fit_power_law(Curve(compute, losses), floor)


@pytest.mark.parametrize(
    ("compute", "losses", "message"),
    [
        ([0.0, 1.0], [[0.1], [0.1]], "must be positive"),
        ([1.0, 2.0], [[0.1], [math.nan]], "finite loss"),
        ([1.0, 2.0], [[0.1], []], "finite loss"),
        ([1.0], [[0.1], [0.2]], "1 points, losses 2"),
    ],
)
def test_points_that_are_no_numbers_are_refused(compute, losses, message):
    with pytest.raises(ValueError, match=message):
        Curve(compute, losses)


def test_losses_at_the_floor_or_below_do_not_break_the_fit():
    law = fit_power_law(Curve([1, 2, 4, 8, 16], [[0.4], [0.2], [0.1], [0.05], [-0.001]]), floor=0)
    assert 1 < law.exponent < 2  # 1 without that point
    assert law.compute_for(0.0) == law.compute_for(-0.1) == math.inf


def test_resampled_means_have_the_spread_of_new_seeds():
    losses = [[0.1, 0.2, 0.4], [0.3, 0.31]]
    drawn = Curve([1, 2], losses).resample(20_000, np.random.default_rng(0))
    # The standard error of a mean over S seeds, with the unbiased variance; 20,000 draws tell it to about 1 %.
    expected = [np.std(point, ddof=1) / math.sqrt(len(point)) for point in losses]
    np.testing.assert_allclose(drawn.std(axis=0), expected, rtol=0.02)
    np.testing.assert_allclose(drawn.mean(axis=0), [np.mean(point) for point in losses], atol=2e-3)


def test_intervals_repeat_with_their_seed_and_grow_with_their_level():
    curve = make_curve(0.01, 0.03, 0.5, seeds=3, noise=0.02)
    intervals = bootstrap_power_law(curve, seed=3, resamples=300)
    assert intervals == bootstrap_power_law(curve, seed=3, resamples=300)
    assert intervals != bootstrap_power_law(curve, seed=4, resamples=300)
    assert set(intervals) == {"floor", "scale", "exponent"}
    assert set(bootstrap_power_law(curve, floor=0.01, resamples=50)) == {"scale", "exponent"}
    law = fit_power_law(curve)
    narrow = bootstrap_power_law(curve, seed=3, level=0.5, resamples=300)
    for name, (low, high) in intervals.items():
        assert low < narrow[name].low < getattr(law, name) < narrow[name].high < high


def test_one_seed_gives_no_interval():
    curve = Curve(COMPUTE, [[0.4, 0.41]] * 2 + [[0.3]] + [[0.2, 0.21]] * 3)
    with pytest.raises(CannotFitError, match="one seed"):
        bootstrap_power_law(curve)
    assert check_held_out(curve).interval is None
    assert check_held_out(curve).covered is None


@pytest.mark.parametrize(("floor", "seeds"), [(None, 3), (0.01, 3), (None, 6)])
def test_intervals_cover_about_as_often_as_they_say(floor, seeds):
    generator = np.random.default_rng(11)
    covered = []
    for _ in range(100):
        curve = make_curve(0.01, 0.03, 0.5, seeds=seeds, noise=0.01, generator=generator)
        low, high = bootstrap_power_law(curve, floor, level=0.9, resamples=120)["exponent"]
        covered.append(low <= 0.5 <= high)
    # 100 curves tell a share of 90 % to 3 % (one standard error); three of them either way.
    assert 0.81 <= np.mean(covered) <= 0.99


def test_held_out_point_is_predicted():
    held_out = check_held_out(make_curve(0.01, 0.03, 0.5))
    assert held_out.law.points == 5
    assert held_out.compute == 5
    assert held_out.predicted == pytest.approx(held_out.measured, rel=1e-6)
    assert held_out.relative_error == pytest.approx(0, abs=1e-6)


def test_held_out_interval_is_of_both_sides_noise():
    generator = np.random.default_rng(5)
    covered = []
    for _ in range(100):
        curve = make_curve(0.01, 0.03, 0.5, seeds=4, noise=0.02, generator=generator)
        covered.append(check_held_out(curve, floor=0.01, level=0.9, resamples=120).covered)
    assert 0.81 <= np.mean(covered) <= 0.99  # as above


def test_held_out_point_off_the_law_is_seen():
    curve = make_curve(0.01, 0.03, 0.5, seeds=3, noise=0.01)
    losses = [*curve.losses[:-1], [loss * 1.3 for loss in curve.losses[-1]]]
    held_out = check_held_out(Curve(COMPUTE, losses))
    assert held_out.covered is False
    assert held_out.error == pytest.approx(held_out.predicted - 1.3 * curve.means[-1])
    assert held_out.relative_error == pytest.approx(-0.23, abs=0.05)


@pytest.mark.parametrize("points", [1, 3])
def test_held_out_needs_points_left(points):
    with pytest.raises(CannotFitError):
        check_held_out(make_curve(0.01, 0.03, 0.5, compute=COMPUTE[:points]))


def test_paper_form_fits_the_printed_points_with_the_sign_turned():
    law = fit_paper_form(*PRINTED)
    assert law.amplitude == pytest.approx(99.56, abs=0.005)
    assert law.exponent == pytest.approx(0.00071, abs=0.000005)
    # As printed numbers have it, to two decimals.
    expected = [-0.40, -0.46, -0.49, -0.56, -0.66, -0.73, -0.77]
    np.testing.assert_allclose(PaperLaw(99.56, 0.00071).predict(np.array(PRINTED[0])), expected, atol=0.005)
    np.testing.assert_allclose(law.predict(np.array(PRINTED[0])), PRINTED[1], atol=0.051)
    # Each factor of four takes about 0.1 % off (section 7.2).
    assert law.predict(4.0) - law.predict(1.0) == pytest.approx(-0.098, abs=0.001)


def test_paper_form_with_the_printed_sign_does_not_fit():
    printed = PaperLaw(99.56, -0.00071).predict(np.array(PRINTED[0]))
    assert np.all(np.diff(printed) > 0)  # it rises with compute
    assert np.abs(printed - PRINTED[1]).max() > 0.6
    assert np.abs(fit_paper_form(*PRINTED).predict(np.array(PRINTED[0])) - PRINTED[1]).max() < 0.06


def test_paper_form_of_losses():
    losses = 0.4 * 0.99 * COMPUTE**-0.01
    relative = compute_relative_loss(losses, 0.4)
    assert relative[0] == pytest.approx(100 * (losses[0] - 0.4) / 0.4)
    law = fit_paper_form(COMPUTE, relative)
    assert (law.amplitude, law.exponent) == (pytest.approx(99), pytest.approx(0.01))
    with pytest.raises(CannotFitError, match="does not fall"):
        fit_paper_form(COMPUTE, -relative)
    with pytest.raises(CannotFitError, match="1 point for 2"):
        fit_paper_form([1.0, 1.0], [0.0, 0.1])


def test_paper_form_intervals_hold_the_fit():
    curve = make_curve(0.0, 0.396, 0.01, seeds=3, noise=0.001)
    intervals = bootstrap_paper_form(curve, [0.4, 0.401, 0.399], resamples=300)
    law = fit_paper_form(curve.compute, compute_relative_loss(curve.means, 0.4))
    assert intervals["exponent"].low < law.exponent < intervals["exponent"].high
    # The baseline's seeds move the amplitude by a share, the exponent not at all.
    fixed = bootstrap_paper_form(curve, [0.4, 0.4, 0.4], resamples=300)
    assert np.ptp(intervals["amplitude"]) > 1.5 * np.ptp(fixed["amplitude"])
    assert intervals["exponent"] == pytest.approx(fixed["exponent"], rel=1e-9)
    # A point of the curve is drawn once, not once as itself and once as the baseline: of two points, the one at
    # compute 1 is the amplitude, and the same in every resample.
    pair = Curve([1.0, 10.0], [[0.5, 0.51, 0.49], [0.4, 0.41, 0.39]])
    own = bootstrap_paper_form(pair, pair.losses[0], resamples=300)["amplitude"]
    apart = bootstrap_paper_form(pair, [loss + 1e-12 for loss in pair.losses[0]], resamples=300)["amplitude"]
    assert np.ptp(own) < 1e-9 < 1 < np.ptp(apart)
    with pytest.raises(CannotFitError, match="one seed"):
        bootstrap_paper_form(curve, [0.4])
