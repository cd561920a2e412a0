"""Draws the pictures of a run's report with matplotlib, without a display, in a light or dark theme."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wukong_jax.reports.theme import Theme, draw_open_frame, save_png, start_figure
from wukong_jax.runs.record import RunRecord, read_number

_SMOOTHED_POINTS = 40  # lines with more points than this also get a moving mean
_OBJECTIVES_DRAWN = 4  # more lines could not be told apart
_LINE_STYLES = ((0, (6, 3)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)), (0, (3, 3)))


def draw_loss(record: RunRecord, theme: Theme) -> bytes | None:
    """Draws training loss, validation and test log loss over the steps, and the log loss of references.

    Returns:
      PNG bytes, or None if there is no loss yet.
    """
    train_steps, train = record.series("train", "loss")
    steps, validation = record.series("validation", "log_loss")
    if not train and not validation:
        return None
    figure, axes = _start(theme)
    if len(train) > _SMOOTHED_POINTS:
        window = max(3, len(train) // 25)
        mean_steps, means = _moving_mean(train_steps, train, window)
        axes.plot(train_steps, train, color=theme.train, alpha=0.4, linewidth=0.9)
        axes.plot(mean_steps, means, color=theme.train, linewidth=2, label="Training, moving mean")
    elif train:
        axes.plot(train_steps, train, color=theme.train, linewidth=1.8, label="Training")
    axes.plot(steps, validation, color=theme.validation, marker="o", markersize=4, linewidth=1.8, label="Validation")
    _draw_test_point(axes, record, "log_loss", theme)
    references = _draw_references(axes, record, "log_loss", theme)
    _limit_to_what_matters(
        axes, [*train, *validation, *references], [*train[len(train) // 20 :], *validation, *references]
    )
    return _finish(figure, axes, theme, "Log loss (nats per row)")


def draw_auc(record: RunRecord, theme: Theme) -> bytes | None:
    """Draws validation AUC over the steps (with several objectives, each and their mean), test AUC and references.

    Returns:
      PNG bytes, or None if there is no validation yet.
    """
    steps, validation = record.series("validation", "auc")
    if not validation:
        return None
    figure, axes = _start(theme)
    names = [name for line in record.lines for name in line if name.endswith("/auc") and name.count("/") == 1]
    objectives = list(dict.fromkeys(names))[:_OBJECTIVES_DRAWN]
    label = "Validation, mean of objectives" if objectives else "Validation"
    axes.plot(steps, validation, color=theme.validation, marker="o", markersize=4, linewidth=2, label=label)
    for i, name in enumerate(objectives):
        line_steps, values = record.series("validation", name)
        axes.plot(
            line_steps,
            values,
            color=theme.others[-1 - i],
            linewidth=1.2,
            marker="^s*v"[i],
            markersize=4,
            label=name[:-4],
        )
    _draw_test_point(axes, record, "auc", theme)
    references = _draw_references(axes, record, "auc", theme)
    drawn = [value for line in axes.get_lines() for value in np.atleast_1d(line.get_ydata())]
    _limit_to_what_matters(axes, [*drawn, *references], [*drawn, *references])
    return _finish(figure, axes, theme, "AUC")


def draw_calibration(record: RunRecord, theme: Theme) -> bytes | None:
    """Draws the observed against the predicted rate in bins of test rows.

    Returns:
      PNG bytes, or None if the test split is not evaluated yet.
    """
    triples = [
        [read_number(bin_.get(key)) for key in ("predicted", "observed", "weight")] for bin_ in record.calibration
    ]
    points = np.array([triple for triple in triples if None not in triple], np.float64)
    if not points.size:
        return None
    predicted, observed, weight = points.T
    # Standard error of a calibrated model. It is not estimated from observed rates, so bins without positives have one.
    error = 2 * np.sqrt(np.clip(predicted * (1 - predicted), 0, None) / weight)
    figure, axes = _start(theme, size=(6.0, 6.0))
    limit = min(1.03, 1.06 * max(predicted.max(), (observed + error).max())) or 1.0
    axes.plot(
        [0, limit], [0, limit], color=theme.muted, linewidth=1, linestyle=_LINE_STYLES[0], label="Perfect calibration"
    )
    bars = np.stack([np.minimum(error, observed), np.minimum(error, 1 - observed)])
    axes.errorbar(
        predicted,
        observed,
        yerr=bars,
        color=theme.train,
        marker="o",
        markersize=5,
        linewidth=1.2,
        elinewidth=1,
        label="Test rows",
    )
    axes.set(xlim=(0, limit), ylim=(0, limit), aspect="equal", xlabel="Predicted rate of positives")
    return _finish(figure, axes, theme, "Observed rate of positives", steps=False)


def _start(theme: Theme, size: tuple[float, float] = (8.6, 4.6)) -> tuple[Figure, Axes]:
    figure = start_figure(*size, dpi=144, theme=theme)
    axes = figure.add_subplot()
    draw_open_frame(axes, theme, labels=10)
    return figure, axes


def _finish(figure: Figure, axes: Axes, theme: Theme, ylabel: str, steps: bool = True) -> bytes:
    if steps:
        axes.set_xlabel("Training step")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.set_ylabel(ylabel)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=theme.ink, fontsize=11)
    figure.legend(
        loc="outside lower center", ncols=3, frameon=False, fontsize=10, labelcolor=theme.ink, handlelength=2.6
    )
    return save_png(figure)


def _draw_references(axes: Axes, record: RunRecord, metric: str, theme: Theme) -> list[float]:
    drawn = []
    for i, (name, metrics) in enumerate(record.references.items()):
        value = read_number(metrics.get(metric))
        if value is not None:
            style = _LINE_STYLES[i % len(_LINE_STYLES)]
            label = f"{name[:1].upper()}{name[1:]}: {value:.4f}"
            axes.axhline(value, color=theme.others[i % len(theme.others)], linewidth=1.6, linestyle=style, label=label)
            drawn.append(value)
    return drawn


def _draw_test_point(axes: Axes, record: RunRecord, metric: str, theme: Theme) -> None:
    value = read_number(record.metrics_of("test").get(metric))
    summary = record.summary or {}
    step = read_number(summary.get("scored_step", summary.get("best_step", summary.get("step"))))
    if value is not None and step is not None:
        label = f"Test: {value:.4f}"
        axes.plot([step], [value], color=theme.test, marker="D", markersize=7, linestyle="none", zorder=5, label=label)


def _limit_to_what_matters(axes: Axes, everything: Sequence[float], shown: Sequence[float]) -> None:
    """Limits the y axis to `shown`, so that the high loss of the first steps does not flatten the rest."""
    low, high = min(everything), max(shown or everything)
    margin = 0.06 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)


def _moving_mean(steps: Sequence[int], values: Sequence[float], window: int) -> tuple[np.ndarray, np.ndarray]:
    kernel = np.ones(window) / window
    return np.convolve(steps, kernel, mode="valid"), np.convolve(values, kernel, mode="valid")
