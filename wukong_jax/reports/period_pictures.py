"""Draws the metrics of a run on a log by its periods."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wukong_jax.reports.theme import LIGHT, PALETTE, Theme, dress_axes, save_png, start_figure
from wukong_jax.runs.record import RunRecord, read_number

PROGRESSIVE = "progressive"  # split of the lines of periods in metrics.jsonl
_PANELS = (("log_loss", "Log loss"), ("auc", "AUC"), ("calibration", "Calibration"))
_LABELS = 6  # names of periods below an axis
Lines = Sequence[Mapping[str, Any]]


def list_periods(record: RunRecord) -> list[Mapping[str, Any]]:
    """Returns the lines of a run's periods, in order."""
    return [line for line in record.lines if line["split"] == PROGRESSIVE]


def draw_periods(record: RunRecord, theme: Theme) -> bytes | None:
    """Draws log loss, AUC and calibration by period, and the rows of the tables that hold a value.

    Returns:
      PNG bytes, or None if no period was scored yet.
    """
    lines = list_periods(record)
    if not any("log_loss" in line for line in lines):
        return None
    return draw_runs({"": lines}, theme=theme)


def draw_runs(runs: Mapping[str, Lines], title: str = "", theme: Theme = LIGHT) -> bytes:
    """Draws the periods of several runs on one log.

    Args:
      runs: lines of their periods, by name.
      title: title of the picture.
      theme: its colours.

    Returns:
      PNG bytes.
    """
    colours = (theme.train,) if len(runs) == 1 else PALETTE
    figure = start_figure(11, 6.5, title, theme=theme)
    axes = figure.subplots(2, 2)
    for place, (key, name) in zip(axes.flat, _PANELS, strict=False):
        dress_axes(place, name, "", "", theme=theme)
        for (run, lines), colour in zip(runs.items(), colours, strict=False):
            _draw(place, lines, [read_number(line.get(key)) for line in lines], colour, run)
    axes[1, 0].axhline(1, color=theme.muted, linewidth=1, zorder=1)
    dress_axes(axes[1, 1], "Rows of tables that hold a value", "", "", theme=theme)
    for (run, lines), colour in zip(runs.items(), colours, strict=False):
        used = [[read_number(value) for key, value in line.items() if key.endswith("/table_rows")] for line in lines]
        _draw(axes[1, 1], lines, [sum(v or 0 for v in own) if own else None for own in used], colour, run)
    axes[1, 1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[1, 1].set_ylim(bottom=0)
    if len(runs) > 1:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize=9,
            labelcolor=theme.ink,
        )
    for place in axes.flat:
        place.set_facecolor(theme.background)
    return save_png(figure)


def _draw(axes: Axes, lines: Lines, values: Sequence[float | None], colour: str, label: str) -> None:
    """Draws one line, with gaps where a value is missing, and names of periods below."""
    names = [str(line.get("period", "")) for line in lines]
    numbers = [float("nan") if value is None else value for value in values]
    marker = "o" if len(names) < 40 else None
    axes.plot(range(len(numbers)), numbers, color=colour, linewidth=1.5, marker=marker, markersize=3, label=label)

    def name_period(position: float, _: object) -> str:
        return names[int(position)] if position == int(position) and 0 <= position < len(names) else ""

    axes.xaxis.set_major_locator(MaxNLocator(_LABELS, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(name_period))
