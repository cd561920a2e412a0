"""Picture of a search: the FLOPs and AUC of every trial."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lattice.sketch.objective import compute_auc_of_equal_objective
from lattice.sketch.space import SearchOptions
from lattice.sketch.trials import COMPLETE, PRUNED, REFUSED, Trial, choose_best

_INK, _MUTED, _GRID, _PAPER = "#1c2128", "#59636e", "#e3e7ec", "#ffffff"
_COMPLETE, _PRUNED, _REFUSED, _BEST, _HAND_MADE = "#0072b2", "#d55e00", "#b3bac2", "#009e73", "#aa4499"


def draw_trials(trials: Sequence[Trial], options: SearchOptions, title: str) -> bytes:
    """Draws a search.

    Args:
      trials: finished trials, the hand-made run first; at least one is complete.
      options: options of the search.
      title: title above the picture.

    Returns:
      PNG bytes.
    """
    figure = Figure(figsize=(9.6, 6.0), dpi=110, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    low, high = _find_limits(trials)
    axes.set_ylim(low, high)
    _draw_ended(axes, trials, low)
    _draw_hand_made_and_best(axes, trials, options)
    if options.budget_flops is not None:
        axes.axvline(options.budget_flops, color=_INK, linewidth=1.2, label="Budget of FLOPs", zorder=2)
    figure.suptitle(title, color=_INK, fontsize=13, x=0.01, ha="left")
    _dress(axes, trials)
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=_PAPER)
    return file.getvalue()


def _find_limits(trials: Sequence[Trial]) -> tuple[float, float]:
    """Returns the limits of the AUC axis: the range of complete trials, with room below for stopped ones."""
    aucs = [trial.auc for trial in trials if trial.state == COMPLETE and trial.auc is not None]
    span = max(max(aucs) - min(aucs), 0.002)
    return min(aucs) - 0.5 * span, max(aucs) + 0.15 * span


def _draw_ended(axes: Axes, trials: Sequence[Trial], low: float) -> None:
    complete = [(trial.flops, trial.auc) for trial in trials if trial.state == COMPLETE]
    x, y = np.array(complete, float).T
    axes.scatter(x, y, s=44, color=_COMPLETE, edgecolors=_PAPER, linewidths=0.6, label="Complete", zorder=4)
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
        axes.scatter(
            refused, np.full(len(refused), 0.02), marker="|", s=70, color=_REFUSED, transform=place, label=label
        )


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
    axes.set_title(text, color=_INK, fontsize=11, loc="left")
    axes.set_xlabel("Training FLOPs per example", color=_INK, fontsize=10)
    axes.set_ylabel("Validation AUC", color=_INK, fontsize=10)
    axes.grid(color=_GRID, linewidth=0.8, zorder=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", colors=_MUTED, labelsize=9, length=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False, fontsize=9, labelcolor=_INK)
