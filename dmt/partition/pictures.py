"""Picture of a partition: the layout coloured by tower, and the affinity matrix ordered by tower."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from wukong_jax.reports.theme import LIGHT, PALETTE, draw_colour_bar, save_png, start_figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # distinguish more towers than there are colours
_MOST_NAMES = 60  # with more columns, names would be unreadable and are left out


def draw_partition(described: Mapping[str, Any], title: str) -> bytes:
    """Draws a partition.

    Args:
      described: content of `towers.json`.
      title: title above the picture.

    Returns:
      PNG bytes.
    """
    columns = described["columns"]
    side = min(16.0, max(6.2, 2.4 + 0.24 * len(columns)))
    figure = start_figure(2 * side + 0.6, side + 0.9, title)
    left, right = figure.subplots(1, 2)
    _draw_layout(left, described)
    _draw_affinity(figure, right, described)
    return save_png(figure)


def _draw_layout(axes: Axes, described: Mapping[str, Any]) -> None:
    positions = described["plane"]
    names = len(positions) <= _MOST_NAMES
    points = np.array(list(positions.values()))
    middle, reach = (points.max(axis=0) + points.min(axis=0)) / 2, max(np.ptp(points, axis=0).max(), 1e-3)
    axes.set(
        xlim=(middle[0] - 0.62 * reach, middle[0] + 0.72 * reach),
        ylim=(middle[1] - 0.62 * reach, middle[1] + 0.72 * reach),
        aspect="equal",
    )
    placed = _place_names(positions, 1.34 * reach) if names else {}
    for tower, members in enumerate(described["towers"]):
        colour, marker = PALETTE[tower % len(PALETTE)], _MARKERS[tower // len(PALETTE) % len(_MARKERS)]
        x, y = np.array([positions[column] for column in members]).T
        label = f"Tower {tower} ({len(members)})"
        axes.scatter(
            x, y, s=46, color=colour, marker=marker, edgecolors=LIGHT.background, linewidths=0.8, label=label, zorder=3
        )
        for column in members if names else ():
            _draw_name(axes, column, positions[column], placed[column], colour)
    axes.grid(visible=True, color=LIGHT.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_color(LIGHT.grid)
    axes.tick_params(colors=LIGHT.muted, labelsize=9)
    strategy = described["settings"]["strategy"]
    axes.set_title(f"Columns in the plane ({strategy} towers)", color=LIGHT.ink, fontsize=11, loc="left")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.06),
        ncols=4,
        frameon=False,
        fontsize=9,
        labelcolor=LIGHT.ink,
        handletextpad=0.2,
    )


def _place_names(positions: Mapping[str, Sequence[float]], extent: float) -> dict[str, tuple[float, float]]:
    """Places each name (middle of its left edge) so that names cover neither each other nor the points.

    Points are taken from top to bottom. A name starts just right of its point and moves only up or down.
    """
    height, letter, gap = 0.032 * extent, 0.0125 * extent, 0.016 * extent
    points = list(positions.values())
    placed: dict[str, tuple[float, float]] = {}
    for column in sorted(positions, key=lambda name: (-positions[name][1], positions[name][0], name)):
        x, y = positions[column][0] + gap, positions[column][1]
        length = letter * len(column)

        def clashes(at: float, x: float = x, length: float = length) -> bool:
            names = any(
                abs(at - other_y) < height and x < other_x + letter * len(other) and other_x < x + length
                for other, (other_x, other_y) in placed.items()
            )
            return names or any(x - gap / 2 < px < x + length and abs(at - py) < 0.6 * height for px, py in points)

        moves = [0.0] + [sign * step * height / 2 for step in range(1, 41) for sign in (1, -1)]
        placed[column] = (x, next((y + move for move in moves if not clashes(y + move)), y))
    return placed


def _draw_name(axes: Axes, name: str, point: Sequence[float], at: tuple[float, float], colour: str) -> None:
    if abs(at[1] - point[1]) > 1e-12:
        axes.plot([point[0], at[0]], [point[1], at[1]], color=colour, linewidth=0.6, alpha=0.7, zorder=2)
    text = axes.text(*at, name, color=colour, fontsize=8.5, va="center", ha="left", zorder=4)
    text.set_path_effects([withStroke(linewidth=2.2, foreground=LIGHT.background)])


def _draw_affinity(figure: Figure, axes: Axes, described: Mapping[str, Any]) -> None:
    index_of = {column: index for index, column in enumerate(described["columns"])}
    ordered = [column for tower in described["towers"] for column in tower]
    order = [index_of[column] for column in ordered]
    matrix = np.array(described["affinity"])[np.ix_(order, order)]
    shown = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)  # ones would dominate the colour scale
    image = axes.imshow(shown, cmap="viridis", interpolation="nearest")
    bar = draw_colour_bar(figure, axes, image, size=9, fraction=0.046, pad=0.02)
    bar.set_ylabel("Affinity", color=LIGHT.ink, fontsize=10)
    start = 0
    for tower, members in enumerate(described["towers"]):
        end = start + len(members)
        colour = PALETTE[tower % len(PALETTE)]
        box = np.array([[start, start], [end, start], [end, end], [start, end], [start, start]]) - 0.5
        axes.plot(*box.T, color=LIGHT.background, linewidth=4, clip_on=False)
        axes.plot(*box.T, color=colour, linewidth=2, clip_on=False)
        start = end
    axes.spines[:].set_visible(False)
    similarity, strided = described["similarity"], described["strided"]
    axes.set_title(
        f"Affinity, by tower: mean {_format(similarity['within'])} within, {_format(similarity['between'])} between\n"
        f"(strided towers: {_format(strided['within'])} and {_format(strided['between'])})",
        color=LIGHT.ink,
        fontsize=11,
        loc="left",
    )
    if len(ordered) > _MOST_NAMES:
        axes.set(xticks=[], yticks=[])
        return
    axes.set_xticks(range(len(ordered)), ordered, rotation=90)
    axes.set_yticks(range(len(ordered)), ordered)
    axes.tick_params(colors=LIGHT.muted, labelsize=8.5, length=0)
    colours = [PALETTE[t % len(PALETTE)] for t, members in enumerate(described["towers"]) for _ in members]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label, colour in zip(labels, colours, strict=True):
            label.set_color(colour)


def _format(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f}"
