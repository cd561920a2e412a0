"""Draws the logarithmic axes of a scaling report's pictures: limits, ticks, and the labels beside the lines."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from wukong_jax.reports.theme import LIGHT, draw_open_frame
from wukong_jax.runs.record import read_number
from wukong_jax.scaling.report.analysis import DataResults, Row

MARKER_SIZES = {"*": 1.7, "P": 1.2, "p": 1.2, "h": 1.2, "D": 0.9}  # factors that make markers look equally large


class Axis(NamedTuple):
    """The quantity on a picture's x axis."""

    key: str
    label: str
    unit: float


def choose_flops_axis(rows: Iterable[Row]) -> Axis:
    """Returns the axis of training FLOPs per example, in a unit that suits the largest value."""
    largest = max((read_number(row["train_flops_per_example"]) or 0 for row in rows), default=0)
    for unit, name in ((1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if largest >= unit:
            return Axis("train_flops_per_example", f"Training {name} per example", unit)
    return Axis("train_flops_per_example", "Training FLOP per example", 1.0)


PARAMETERS = Axis("parameters", "Dense parameters", 1.0)
EXAMPLES = Axis("examples_seen", "Examples seen", 1.0)


class PlacedPoint(NamedTuple):
    """A row with its position in a picture."""

    x: float
    loss: float
    std: float
    row: Row


def read_place(row: Row, axis: Axis) -> float | None:
    """Returns a row's x value; None if it has none on a logarithmic axis or is drawn as a horizontal line."""
    value = read_number(row[axis.key])
    if value is None or value <= 0 or (axis is not EXAMPLES and is_level(row)):
        return None
    return value / axis.unit


def is_level(row: Row) -> bool:
    """Whether a row's model has no matrix products, which count as 0 FLOPs; it is drawn as a horizontal line."""
    return read_number(row["train_flops_per_example"]) == 0


def place_points(rows: Iterable[Row], axis: Axis, results: DataResults) -> list[PlacedPoint]:
    """Returns the rows that have a position on logarithmic axes, sorted by x."""
    points = []
    for row in rows:
        x, loss = read_place(row, axis), read_number(row[results.loss])
        if x is not None and loss is not None and loss > 0:
            points.append(PlacedPoint(x, loss, read_number(row[f"{results.loss}_std"]) or 0.0, row))
    return sorted(points, key=lambda point: point.x)


def set_up_axes(axes: Axes) -> None:
    """Sets up logarithmic axes in the light theme."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.autoscale(enable=False)  # `set_limits` sets them
    draw_open_frame(axes, LIGHT, labels=9)


def set_limits(axes: Axes, points: Sequence[PlacedPoint], ticks: int = 7, levels: Sequence[float] = ()) -> None:
    """Sets limits that include all points, their error bars and the given levels, and suitable ticks."""
    x = [point.x for point in points]
    lows = [point.loss - min(point.std, 0.5 * point.loss) for point in points] + list(levels)
    highs = [point.loss + point.std for point in points] + list(levels)
    axes.set_xlim(*(limits := _widen(min(x), max(x), share=0.04, least=0.3)))
    _set_ticks(axes.xaxis, limits, ticks)
    axes.set_ylim(*(limits := _widen(min(lows), max(highs), share=0.07, least=0.02)))
    _set_ticks(axes.yaxis, limits, ticks)


def _widen(low: float, high: float, share: float, least: float) -> tuple[float, float]:
    """Widens a range by a share of its logarithmic span; a very narrow range, by `least`."""
    span = math.log(high / low)
    factor = math.exp(share * span if span > least / 2 else least)
    return low / factor, high * factor


def _set_ticks(axis: XAxis | YAxis, limits: tuple[float, float], ticks: int) -> None:
    axis.set_major_locator(_choose_locator(limits, ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _format_tick(value)))


def _choose_locator(bounds: tuple[float, float], ticks: int) -> Locator:
    decades = math.log10(bounds[1] / bounds[0])
    if decades < 0.5:
        return MaxNLocator(nbins=ticks, steps=[1, 2, 2.5, 5, 10])
    for subs in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        if decades * len(subs) <= ticks:
            break
    return LogLocator(subs=subs, numticks=50)


def _format_tick(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def write_labels(axes: Axes, labels: Sequence[tuple[str, float, float, Mapping[str, Any]]], reference: str) -> None:
    """Writes the models' names beside the axes, in the order of the lines' ends, with thin lines to them."""
    low, high = np.log(axes.get_ylim())
    wanted = [(math.log(y) - low) / (high - low) for _, _, y, _ in labels]
    order = np.argsort(wanted)
    gap = min(0.052, 1 / max(len(labels), 1))
    heights = _spread_heights([wanted[i] for i in order], gap)
    for i, height in zip(order, heights, strict=True):
        model, x, y, style = labels[i]
        axes.annotate(
            "",
            (x, y),
            (1.025, height),
            "data",
            "axes fraction",
            arrowprops={"arrowstyle": "-", "color": LIGHT.muted, "linewidth": 0.7, "linestyle": ":", "shrinkB": 4},
            annotation_clip=False,
            zorder=1,
        )
        handle = Line2D(
            [1.025, 1.045, 1.065],
            [height] * 3,
            transform=axes.transAxes,
            clip_on=False,
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=2.6 if model == reference else 1.5,
            marker=style["marker"],
            markevery=[1],
            markersize=7 * MARKER_SIZES.get(style["marker"], 1),
            markeredgecolor=LIGHT.background,
            markeredgewidth=0.7,
        )
        axes.add_line(handle)
        axes.text(
            1.08,
            height,
            model,
            transform=axes.transAxes,
            va="center",
            fontsize=10,
            color=LIGHT.ink,
            parse_math=False,
            fontweight="bold" if model == reference else "normal",
        )


def _spread_heights(wanted: Sequence[float], gap: float) -> list[float]:
    """Returns heights in [0, 1], in the given order, at least a gap apart and close to the wanted heights.

    Neighbours that are too close form a block around the mean of their wanted heights; overlapping blocks are merged.
    """
    blocks: list[list[float]] = []  # wanted heights by block
    for height in wanted:
        blocks.append([height])
        while len(blocks) > 1 and _start(blocks[-2], gap) + gap * len(blocks[-2]) > _start(blocks[-1], gap):
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    return [_start(block, gap) + i * gap for block in blocks for i in range(len(block))]


def _start(block: Sequence[float], gap: float) -> float:
    length = gap * (len(block) - 1)
    return min(max(sum(block) / len(block) - length / 2, 0), 1 - length)
