"""Picture of a search: the FLOPs and AUC of every trial."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from lattice.sketch.objective import compute_auc_of_equal_objective
from lattice.sketch.space import SearchOptions
from lattice.sketch.trials import COMPLETE, PRUNED, REFUSED, Trial, choose_best
from wukong_jax.reports.theme import FADED, LIGHT, PALETTE, dress_axes, save_png, start_figure

_COMPLETE, _PRUNED, _BEST, _HAND_MADE = PALETTE[:4]


def draw_trials(trials: Sequence[Trial], options: SearchOptions, title: str) -> bytes:
    """Draws a search.

    Args:
      trials: finished trials, the hand-made run first; at least one is complete.
      options: options of the search.
      title: title above the picture.

    Returns:
      PNG bytes.
    """
    figure = start_figure(9.6, 6.0, title)
    axes = figure.subplots()
    axes.set_xscale("log")
    low, high = _find_limits(trials)
    axes.set_ylim(low, high)
    _draw_ended(axes, trials, low)
    _draw_hand_made_and_best(axes, trials, options)
    if options.budget_flops is not None:
        axes.axvline(options.budget_flops, color=LIGHT.ink, linewidth=1.2, label="Budget of FLOPs", zorder=2)
    _dress(axes, trials)
    return save_png(figure)


def _find_limits(trials: Sequence[Trial]) -> tuple[float, float]:
    """Returns the limits of the AUC axis: the range of complete trials, with room below for stopped ones."""
    aucs = [trial.auc for trial in trials if trial.state == COMPLETE and trial.auc is not None]
    span = max(max(aucs) - min(aucs), 0.002)
    return min(aucs) - 0.5 * span, max(aucs) + 0.15 * span


def _draw_ended(axes: Axes, trials: Sequence[Trial], low: float) -> None:
    complete = [(trial.flops, trial.auc) for trial in trials if trial.state == COMPLETE]
    x, y = np.array(complete, float).T
    axes.scatter(x, y, s=44, color=_COMPLETE, edgecolors=LIGHT.background, linewidths=0.6, label="Complete", zorder=4)
    stopped = [(t.flops, t.evaluations[-1][1]) for t in trials if t.state == PRUNED and t.evaluations]
    if stopped:
        x, y = np.array(stopped, float).T
        label = "Stopped early, at the AUC it had; on the lower edge: that or less"
        y = np.maximum(y, low)
        axes.scatter(x, y, s=40, color=_PRUNED, marker="x", linewidths=1.4, label=label, zorder=4, clip_on=False)
    refused = [trial.flops for trial in trials if trial.state == REFUSED and trial.flops is not None]
    if refused:
        place = axes.get_xaxis_transform()
        label = "Refused before training"
        axes.scatter(refused, np.full(len(refused), 0.02), marker="|", s=70, color=FADED, transform=place, label=label)


def _draw_hand_made_and_best(axes: Axes, trials: Sequence[Trial], options: SearchOptions) -> None:
    """Draws a ring around both, and for each a contour line: the AUC at which other FLOPs give the same objective."""
    best = choose_best(trials)
    flops = np.array([trial.flops for trial in trials if trial.flops is not None])
    line = np.geomspace(flops.min(), flops.max() * 1.0001, 50)
    for trial, colour, name in ((trials[0], _HAND_MADE, "Hand-made"), (best, _BEST, "Best")):
        if trial is None or trial.objective is None or trial.flops is None or trial.auc is None:
            continue
        worth = compute_auc_of_equal_objective(trial.objective, line, options.exponent)
        axes.plot(line, worth, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=3)
        label = f"{name}: {trial.flops / 1e6:.3g} MFLOP, AUC {trial.auc:.4f}; dashed: worth as much"
        x, y = [trial.flops], [trial.auc]
        axes.scatter(x, y, s=150, facecolors="none", edgecolors=colour, linewidths=2.0, label=label, zorder=5)


def _dress(axes: Axes, trials: Sequence[Trial]) -> None:
    counts = [sum(trial.state == state for trial in trials) for state in (COMPLETE, PRUNED, REFUSED)]
    text = "{} complete, {} stopped early, {} refused".format(*counts)
    dress_axes(axes, text, "Training FLOPs per example", "Validation AUC")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False, fontsize=9, labelcolor=LIGHT.ink
    )
