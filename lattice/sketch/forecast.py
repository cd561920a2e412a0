"""Early stopping of trials: by the median of others, or by a fitted learning curve that says a trial cannot win.

The curve is AUC(step) = a - b * step^-c with b >= 0, fitted by least squares to a trial's evaluations so far. A trial
is stopped if its AUC at its last step, by its curve, plus a margin gives a worse objective than the best complete trial
within the budget. The margin is the most by which the same forecast, at the same step, has fallen short of a complete
trial's AUC, so it is as careful as forecasts have turned out to be wrong in this search. The paper is said to prune by
a scaling law; the form of the curve and the margin are our choice.
"""

from collections.abc import Sequence

import numpy as np

from lattice.sketch.objective import compute_objective
from lattice.sketch.space import SearchOptions
from lattice.sketch.trials import COMPLETE, Trial, choose_best, is_hopeless

EXPONENTS = np.geomspace(0.1, 3.0, 60)  # c of the curve
FEWEST_POINTS = 3  # a curve has three numbers

Points = Sequence[Sequence[float]]  # (step, validation AUC), ascending


def explain_stop(trials: Sequence[Trial], options: SearchOptions, flops: float, seen: Points, last_step: int) -> str:
    """Tells why a trial is to be stopped; empty if it is not.

    Args:
      trials: the earlier trials.
      options: options of the search, with the rule; before `startup_trials` complete trials, none is stopped.
      flops: training FLOPs per example of the trial.
      seen: its evaluations so far, at least one.
      last_step: the step at which it would end.
    """
    step = int(seen[-1][0])
    if options.pruning == "median":
        return (
            f"below the median of complete trials at step {step:,}" if is_hopeless(trials, options, flops, seen) else ""
        )
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.auc is not None]
    best, forecast = choose_best(trials), forecast_auc(seen, last_step)
    if len(complete) < options.startup_trials or best is None or best.objective is None or forecast is None:
        return ""
    margin = find_margin(complete, step)
    reached = min(forecast + margin, 1.0)
    objective = compute_objective(reached, flops, options.exponent)
    if objective >= best.objective:
        return ""
    return (
        f"at step {step:,} its curve ends at AUC {forecast:.4f}, with a margin of {margin:.4f} an objective of "
        f"{objective:.5f}; trial {best.number} has {best.objective:.5f}"
    )


def forecast_auc(points: Points, step: int) -> float | None:
    """Returns the AUC of the fitted curve at a later step, from 0 to 1; None with fewer than three points.

    Args:
      points: (step, AUC) pairs.
      step: the step to forecast.
    """
    if len(points) < FEWEST_POINTS:
        return None
    steps, aucs = np.array(points, np.float64).T
    scaled = steps / step
    best: tuple[float, float] | None = None  # squared error, AUC at the step
    for exponent in EXPONENTS:
        fall = scaled**-exponent
        centred = fall - fall.mean()
        slope = max(0.0, -float(centred @ aucs) / float(centred @ centred))
        level = float(aucs.mean() + slope * fall.mean())
        error = float(((level - slope * fall - aucs) ** 2).sum())
        if best is None or error < best[0]:
            best = error, level - slope
    assert best is not None
    return min(max(best[1], 0.0), 1.0)


def find_margin(complete: Sequence[Trial], step: int) -> float:
    """Returns the most by which forecasts at a step fell short of the AUC of complete trials, at least 0."""
    shortfalls = [0.0]
    for trial in complete:
        seen = [point for point in trial.evaluations if point[0] <= step]
        forecast = forecast_auc(seen, int(trial.evaluations[-1][0])) if seen else None
        if forecast is not None and trial.auc is not None:
            shortfalls.append(trial.auc - forecast)
    return max(shortfalls)
