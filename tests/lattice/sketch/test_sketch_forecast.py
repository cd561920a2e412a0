"""Tests forecasts of learning curves against a slow twin, and which trials they stop."""

import numpy as np
import pytest
from scipy.optimize import nnls

from lattice.sketch.forecast import EXPONENTS, explain_stop, find_margin, forecast_auc
from lattice.sketch.objective import compute_objective
from lattice.sketch.space import ParameterRange, SearchOptions
from lattice.sketch.trials import Trial
from wukong_jax.errors import UserError

SPACE = {"model.options.rank": ParameterRange(low=1, high=9)}
STEPS = (10, 20, 30, 40, 80)
HALF = float(EXPONENTS[28])  # about 0.5


def rise(end, drop, exponent, steps=STEPS):
    return tuple((step, end - drop * (step / 80) ** -exponent) for step in steps)


def slow_forecast(points, step):
    """Fits level and slope for every exponent, both at least 0, by a general solver."""
    found = []
    for exponent in EXPONENTS:
        matrix = np.array([[1.0, -((at / step) ** -exponent)] for at, _ in points])
        (level, slope), residual = nnls(matrix, np.array([auc for _, auc in points]))
        found.append((residual, level - slope))
    return min(found)[1]


@pytest.mark.parametrize("seed", range(5))
def test_forecasts_equal_their_slow_twin(seed):
    random = np.random.default_rng(seed)
    points = [(step, 0.75 - 0.1 * (step / 80) ** -0.7 + random.normal(0, 0.002)) for step in STEPS[: 3 + seed % 3]]
    assert forecast_auc(points, 80) == pytest.approx(slow_forecast(points, 80), abs=1e-6)


def test_a_curve_is_continued_and_a_falling_one_is_flat():
    exponent = float(EXPONENTS[30])
    points = rise(0.8, 0.05, exponent)
    assert forecast_auc(points[:3], 80) == pytest.approx(points[-1][1], abs=1e-9)
    assert forecast_auc([(1, 0.7), (2, 0.6), (3, 0.5)], 9) == pytest.approx(0.6)
    assert forecast_auc(points[:2], 80) is None


def end(number, evaluations, flops=1e6):
    auc = evaluations[-1][1]
    return Trial(
        number,
        {"model.options.rank": 1 + number},
        "complete",
        flops=flops,
        evaluations=evaluations,
        auc=auc,
        objective=compute_objective(auc, flops),
    )


def test_a_trial_is_stopped_if_its_curve_cannot_win_and_only_then():
    past = [end(0, rise(0.80, 0.05, HALF)), end(1, rise(0.78, 0.05, HALF))]
    curve = SearchOptions(SPACE, startup_trials=2, pruning="curve")
    slow = rise(0.90, 0.14, HALF)  # behind both until step 40, and ahead at the end
    assert slow[3][1] < min(trial.evaluations[3][1] for trial in past)
    assert slow[4][1] > past[0].auc
    assert explain_stop(past, curve, 1e6, slow[:4], 80) == ""
    assert "below the median" in explain_stop(past, SearchOptions(SPACE, startup_trials=2), 1e6, slow[:4], 80)
    flat = rise(0.74, 0.01, HALF)
    reason = explain_stop(past, curve, 1e6, flat[:3], 80)
    assert reason.startswith("at step 30 its curve ends at AUC 0.7300, with a margin of 0.0000 an objective of ")
    assert reason.endswith(f"trial 0 has {past[0].objective:.5f}")
    assert explain_stop(past, curve, 1e6 * (0.73 / 0.75) ** (1 / 0.003) / 2, flat[:3], 80) == ""  # cheap enough to win
    assert explain_stop(past[:1], curve, 1e6, flat[:3], 80) == ""  # too few complete trials
    assert explain_stop(past, curve, 1e6, flat[:2], 80) == ""  # too few points


def test_the_margin_is_the_worst_shortfall_so_far():
    leap = (*rise(0.75, 0.02, HALF)[:4], (80, 0.80))  # a trial that leapt at the end, which no curve foresees
    past = [end(0, rise(0.78, 0.05, HALF)), end(1, leap)]
    margin = find_margin(past, 40)
    assert margin == pytest.approx(0.80 - slow_forecast(leap[:4], 80), abs=1e-6)
    curve = SearchOptions(SPACE, startup_trials=2, pruning="curve")
    near, far = rise(0.80 - margin + 0.021, 0.02, HALF), rise(0.80 - margin + 0.015, 0.02, HALF)
    assert explain_stop(past, curve, 1e6, near[:4], 80) == ""
    assert f"a margin of {margin:.4f}" in explain_stop(past, curve, 1e6, far[:4], 80)


def test_pruning_without_rungs_is_refused():
    with pytest.raises(UserError, match="pruning = 'curve': no trial is stopped without rungs"):
        SearchOptions(SPACE, rungs=(), pruning="curve")
