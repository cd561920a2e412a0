"""Draws the pictures of a scaling report with matplotlib, without a display: PNG files, and SVG with tooltips.

Every model has its own colour, marker and line style, so that models can be told apart without colour vision.
"""

import io
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wukong_jax.reports.theme import DARK, LIGHT, PALETTE, save_png, start_figure
from wukong_jax.runs.record import read_number
from wukong_jax.scaling.report.analysis import DataResults, Row
from wukong_jax.scaling.report.axes import (
    EXAMPLES,
    MARKER_SIZES,
    Axis,
    PlacedPoint,
    is_level,
    place_points,
    read_place,
    set_limits,
    set_up_axes,
    write_labels,
)
from wukong_jax.scaling.report.text import describe_state

# (light theme, dark theme); all light colours differ, since the page turns each into a variable.
_MODEL_COLOURS = (
    (PALETTE[0], PALETTE[5]),
    (PALETTE[1], "#f0853c"),
    (PALETTE[2], "#2fc79b"),
    (PALETTE[3], "#d98bc0"),
    (PALETTE[4], "#e6c24a"),
    ("#1f93b6", "#9be3f5"),
    ("#882255", "#f06ba8"),
    ("#5b8c00", "#a5d152"),
    ("#cc6677", "#f5a9b4"),
    ("#332288", "#a79bf0"),
    ("#7a7a7a", "#b8b8b8"),
    ("#7f4f24", "#d3a277"),
)
_MARKERS = "osD^vP<>ph*d"
_LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.3)), (0, (6, 2, 1.5, 2)), (0, (9, 2)))
# Colours of a model's sizes, small to large; their contrast to the background increases.
_SIZE_COLOURS = (
    ("#b88700", "#8a6a24"),
    ("#bd6a14", "#a06b1f"),
    ("#b8502c", "#c97a2e"),
    ("#a83d54", "#e68a4a"),
    ("#81306d", "#f2a071"),
    ("#582b78", "#f7b99a"),
    ("#33256b", "#fbd2c0"),
    ("#171a4d", "#ffede5"),
)
_POINT = "-point-"


class Drawing(NamedTuple):
    """A picture with the tooltips of its points."""

    name: str
    figure: Figure
    words: Mapping[str, str]  # tooltips by the id of the point's mark in the SVG


def list_css_colours() -> list[tuple[str, str, str]]:
    """Returns the CSS variables of the SVG pictures' colours, with their values in the light and the dark theme."""
    pairs = [(getattr(LIGHT, name), getattr(DARK, name)) for name in ("background", "ink", "muted", "grid")]
    pairs += [*_MODEL_COLOURS, *_SIZE_COLOURS]
    return [(f"--c{i}", light, dark) for i, (light, dark) in enumerate(pairs)]


def draw_curves(
    name: str, results: DataResults, axis: Axis, reference: str, describe: Callable[[Row], str]
) -> Drawing | None:
    """Draws final losses over an axis, with a line per model; models without matrix products are horizontal lines.

    Args:
      name: name of the picture, and prefix of the ids of its points.
      results: results of one data set.
      axis: FLOPs or parameters.
      reference: the highlighted model; over FLOPs, its law with a free floor is drawn, too.
      describe: returns a row's tooltip.

    Returns:
      The picture; None if no point has a position on the axes.
    """
    placed = {model: place_points(rows, axis, results) for model, rows in results.final.items()}
    if not any(placed.values()):
        return None
    figure = start_figure(10.5, 6.2, dpi=144, layout=None)
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.085, right=0.77, bottom=0.1, top=0.97)
    set_up_axes(axes)
    words: dict[str, str] = {}
    labels = []
    for i, (model, points) in enumerate(placed.items()):
        style = _style(i)
        strong = model == reference
        if points:
            x, y, std = (np.array(column, np.float64) for column in zip(*(point[:3] for point in points), strict=True))
            axes.plot(x, y, color=style["color"], linestyle=style["linestyle"], linewidth=2.6 if strong else 1.5)
            _draw_bars(axes, x, y, std, style["color"])
            labels.append((model, x[-1], y[-1], style))
        for point in points:
            gid = f"{name}{_POINT}{len(words)}"
            words[gid] = describe(point.row)
            _draw_mark(axes, gid, point.x, point.loss, style, strong, bool(point.row["exploded"]))
    levels = _list_levels(results)
    set_limits(axes, [point for points in placed.values() for point in points], levels=[loss for _, _, loss in levels])
    for i, row, loss in levels:
        gid = f"{name}{_POINT}{len(words)}"
        words[gid] = describe(row)
        edge = axes.get_xlim()[1]
        axes.axhline(loss, color=_style(i)["color"], linestyle=_style(i)["linestyle"], linewidth=1.1, zorder=1.5)
        _draw_mark(axes, gid, edge**0.98 * axes.get_xlim()[0] ** 0.02, loss, _style(i), False, bool(row["exploded"]))
        labels.append((row["model"], edge, loss, _style(i)))
    for i, model in enumerate(placed):
        for row in results.final[model]:
            place = read_place(row, axis)
            if place is not None and read_number(row[results.loss]) is None:
                gid = f"{name}{_POINT}{len(words)}"
                words[gid] = describe(row)
                _draw_exploded(axes, gid, place, _style(i)["color"])
    law = results.laws.get(reference)
    if law and placed.get(reference) and axis.key == "train_flops_per_example":
        ends = placed[reference][0].x, placed[reference][-1].x
        x = np.geomspace(ends[0], 3 * ends[1], 100)  # FLOPs in the axis' unit; the law uses MFLOP
        colour = _style(list(placed).index(reference))["color"]
        axes.plot(x, law.predict(x * axis.unit / 1e6), color=colour, linewidth=1.1, linestyle=":", zorder=1.5)
    _draw_bayes(axes, results)
    write_labels(axes, labels, reference)
    _explain_marks(axes, axis, results)
    _name_axes(axes, axis, results)
    return Drawing(name, figure, words)


def draw_data_curves(name: str, results: DataResults, reference: str, describe: Callable[[Row], str]) -> Drawing | None:
    """Draws losses over examples seen, with a panel per model and a line per size.

    Points during training, on validation rows, are hollow; points at the end are filled. The reference's largest size
    is repeated as a dotted line in the other panels.

    Returns:
      The picture; None if no point has a position on the axes.
    """
    lines = {model: _collect_passes(model, results) for model in results.models}
    lines = {model: sizes for model, sizes in lines.items() if any(sizes.values())}
    if not lines:
        return None
    columns = min(3, len(lines))
    count = math.ceil(len(lines) / columns)
    figure = start_figure(10.5, 3.1 * count + 0.4, dpi=144)
    grid = figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False)
    words: dict[str, str] = {}
    best = [line for line in lines.get(reference, {}).values() if line][-1:]
    for axes, (model, sizes) in zip(grid.flat, lines.items(), strict=False):
        set_up_axes(axes)
        axes.set_title(model, loc="left", fontsize=10, fontweight="bold", color=LIGHT.ink, parse_math=False)
        if best and model != reference:
            axes.plot(
                [p.x for p in best[0]], [p.loss for p in best[0]], color=LIGHT.muted, linewidth=1.2, linestyle=":"
            )
        for i, (size, points) in enumerate(sizes.items()):
            colour = _SIZE_COLOURS[_pick_colour(i, len(sizes))][0]
            style = {"color": colour, "marker": _MARKERS[i % len(_MARKERS)], "linestyle": "-"}
            axes.plot([], [], label=size, markersize=4.5, linewidth=1.4, **style)
            axes.plot([p.x for p in points], [p.loss for p in points], color=colour, linewidth=1.4)
            for point in points:
                gid = f"{name}{_POINT}{len(words)}"
                words[gid] = describe(point.row)
                _draw_mark(axes, gid, point.x, point.loss, style, False, False, 4.5, not point.row["final"])
        axes.legend(frameon=False, fontsize=8, labelcolor=LIGHT.ink, handlelength=1.6, labelspacing=0.25)
    for axes in grid.flat[len(lines) :]:
        axes.set_visible(False)
    set_limits(grid[0, 0], [point for sizes in lines.values() for points in sizes.values() for point in points], 5)
    for i, axes in enumerate(grid.flat):
        _draw_bayes(axes, results, words=False)
        below = i + columns >= len(lines)  # no panel below this one that shows the axis labels
        axes.tick_params(labelbottom=below)
    figure.supxlabel(EXAMPLES.label, fontsize=11, color=LIGHT.ink)
    figure.supylabel(_name_loss(results), fontsize=11, color=LIGHT.ink)
    return Drawing(name, figure, words)


def render_png(drawing: Drawing) -> bytes:
    """Renders the picture as PNG in the light theme."""
    return save_png(drawing.figure)


def render_svg(drawing: Drawing, label: str) -> str:
    """Renders the picture as an SVG element for a page: colours are the page's variables, points have tooltips.

    The element has no scripts or external resources; tooltips are SVG titles, which browsers show on hover.

    Args:
      drawing: the picture.
      label: description of the picture for screen readers.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": drawing.name, "font.family": "sans-serif"}):
        drawing.figure.savefig(file, format="svg", facecolor=LIGHT.background, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Ids must be unique in the page, which has several pictures.
    text = re.sub(rf'\bid="(?!{re.escape(drawing.name + _POINT)})', f'id="{drawing.name}-', text)
    text = text.replace('href="#', f'href="#{drawing.name}-').replace("url(#", f"url(#{drawing.name}-")
    for variable, light, _ in list_css_colours():
        text = text.replace(light, f"var({variable})")
    attributes = f'class="curves" role="img" aria-label={quoteattr(label)}'
    text = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg {attributes} viewBox="\1">', text, count=1)
    for gid, words in drawing.words.items():
        before, mark, after = text.partition(f'<g id="{gid}">')
        if not mark:
            raise AssertionError(f"{gid} was not drawn")
        text = f'{before}<g id="{gid}" class="point"><title>{escape(words)}</title>{after}'
    return text


def list_undrawn(results: DataResults) -> list[str]:
    """Lists the final points that have no position on the axes, each with the reason."""
    undrawn = []
    for model, rows in results.final.items():
        for row in rows:
            loss = read_number(row[results.loss])
            if read_number(row["train_flops_per_example"]) is None or (is_level(row) and loss is None):
                undrawn.append(f"{model} {row['size']} ({describe_state(row) or 'unknown cost'})")
            elif loss is not None and loss <= 0:
                undrawn.append(f"{model} {row['size']} (at the Bayes loss or below: {loss:.5f})")
    return undrawn


def _list_levels(results: DataResults) -> list[tuple[int, Row, float]]:
    """Lists the points that are drawn as horizontal lines: index of the model, row, loss."""
    levels = []
    for i, rows in enumerate(results.final.values()):
        for row in rows:
            loss = read_number(row[results.loss])
            if is_level(row) and loss is not None and loss > 0:
                levels.append((i, row, loss))
    return levels


def _collect_passes(model: str, results: DataResults) -> dict[str, list[PlacedPoint]]:
    rows = [*(row for row in results.along if row["model"] == model), *results.final.get(model, ())]
    costs = {row["size"]: read_number(row["train_flops_per_example"]) or 0 for row in rows}
    passes = {
        size: place_points([row for row in rows if row["size"] == size], EXAMPLES, results)
        for size in sorted(costs, key=lambda size: costs[size])
    }
    return {size: points for size, points in passes.items() if points}


def _style(i: int) -> dict[str, Any]:
    return {
        "color": _MODEL_COLOURS[i % len(_MODEL_COLOURS)][0],
        "marker": _MARKERS[(i + i // len(_MODEL_COLOURS)) % len(_MARKERS)],
        "linestyle": _LINES[i % len(_LINES)],
    }


def _pick_colour(i: int, count: int) -> int:
    """Returns the i-th of `count` colour indices, spaced as far apart as possible."""
    last = len(_SIZE_COLOURS) - 1
    return min(last, round(i * last / max(count - 1, 1)))


def _draw_bars(axes: Axes, x: np.ndarray, y: np.ndarray, std: np.ndarray, colour: str) -> None:
    """Draws error bars of one standard deviation over seeds; bars that would reach 0 are shortened."""
    some = std > 0
    bars = np.stack([np.minimum(std, 0.95 * y), std])[:, some]
    if some.any():
        axes.errorbar(x[some], y[some], yerr=bars, fmt="none", ecolor=colour, elinewidth=1.6, zorder=2.5, alpha=0.8)


def _draw_mark(
    axes: Axes,
    gid: str,
    x: float,
    y: float,
    style: Mapping[str, Any],
    strong: bool,
    some_exploded: bool,
    size: float = 6.5,
    hollow: bool | None = None,
) -> None:
    """Draws a point's mark and, around it, a larger transparent one that has the id and receives the pointer.

    Hollow and filled marks have the same size; if `hollow` is None, a rim separates overlapping marks.
    """
    colour = style["color"]
    rim = LIGHT.background if hollow is None else colour
    axes.plot(
        [x],
        [y],
        color=colour,
        marker=style["marker"],
        markersize=(size + 1.5 * strong) * MARKER_SIZES.get(style["marker"], 1),
        markerfacecolor=LIGHT.background if hollow else colour,
        markeredgecolor=rim,
        markeredgewidth=0.7 if hollow is None else 1.1,
        zorder=4 if strong else 3,
    )
    if some_exploded:
        axes.plot([x], [y], color=colour, marker="x", markersize=13, markeredgewidth=1.4, zorder=3.5)
    axes.plot([x], [y], color=colour, marker="o", markersize=2.2 * size, markeredgewidth=0, alpha=0, zorder=6, gid=gid)


def _draw_exploded(axes: Axes, gid: str, x: float, colour: str) -> None:
    """Draws a cross at the upper edge and the transparent mark around it."""
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "color": colour}
    axes.plot([x], [0.975], marker="x", markersize=9, markeredgewidth=2.2, zorder=5, **place)
    axes.plot([x], [0.975], marker="o", markersize=14, markeredgewidth=0, alpha=0, zorder=6, gid=gid, **place)


def _draw_bayes(axes: Axes, results: DataResults, words: bool = True) -> None:
    if results.is_excess:
        if words:
            axes.text(
                0.01,
                0.015,
                "\N{DOWNWARDS ARROW} 0: the Bayes loss, infinitely far down this axis",
                transform=axes.transAxes,
                fontsize=8.5,
                color=LIGHT.muted,
            )
    elif results.bayes_log_loss:
        low, high = axes.get_ylim()
        axes.axhline(results.bayes_log_loss, color=LIGHT.muted, linewidth=1.4, linestyle=(0, (6, 3)))
        axes.set_ylim(min(low, 0.998 * results.bayes_log_loss), high)
        if words:
            place = (0.01, results.bayes_log_loss)
            axes.annotate(
                "Bayes loss",
                place,
                (0, 3),
                axes.get_yaxis_transform(),
                "offset points",
                fontsize=8.5,
                color=LIGHT.muted,
            )


def _name_axes(axes: Axes, axis: Axis, results: DataResults) -> None:
    axes.set_xlabel(axis.label, fontsize=11, color=LIGHT.ink)
    axes.set_ylabel(_name_loss(results), fontsize=11, color=LIGHT.ink)


def _name_loss(results: DataResults) -> str:
    return "Log loss above Bayes (nats)" if results.is_excess else "Log loss (nats)"


def _explain_marks(axes: Axes, axis: Axis, results: DataResults) -> None:
    rows = [row for group in results.final.values() for row in group]
    lost = any(read_number(row[results.loss]) is None and read_place(row, axis) for row in rows)
    some = any(row["exploded"] and read_number(row[results.loss]) is not None for row in rows)
    handles = []
    if lost:
        handles.append(
            Line2D([], [], color=LIGHT.muted, marker="x", linestyle="none", label="no seed left: exploded or failed")
        )
    if some:
        handles.append(
            Line2D(
                [],
                [],
                color=LIGHT.muted,
                marker="x",
                markersize=10,
                linestyle="none",
                label="crossed point: some seeds exploded",
            )
        )
    if handles:
        axes.legend(
            handles=handles,
            frameon=False,
            fontsize=8.5,
            labelcolor=LIGHT.ink,
            loc="lower left",
            bbox_to_anchor=(0, 0.03),
        )
