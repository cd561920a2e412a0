"""Picture of a grouping: affinities and gradient cosines of all pairs of portfolios, ordered by group."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wukong_jax.reports.theme import LIGHT, draw_colour_bar, save_png, start_figure

_MOST_NUMBERS = 14  # with more portfolios, cells show no numbers


def draw_groups(described: Mapping[str, Any], title: str) -> bytes:
    """Draws a grouping.

    Args:
      described: content of `groups.json`.
      title: title above the picture.

    Returns:
      PNG bytes.
    """
    names = [p["name"] for p in described["portfolios"]]
    groups = [[names.index(name) for name in group["portfolios"]] for group in described["groups"]]
    order = [index for group in groups for index in group]
    side = min(11.0, max(4.6, 2.2 + 0.42 * len(names)))
    figure = start_figure(2 * side + 1.4, side + 0.8, title)
    parts = (("total", "Affinity"), ("cosine", "Cosine of gradients"))
    for axes, (key, label) in zip(figure.subplots(1, 2), parts, strict=True):
        values = np.array(described["affinity"][key])[np.ix_(order, order)]
        _draw_matrix(figure, axes, values, [names[i] for i in order], label)
        _frame_groups(axes, [len(group) for group in groups])
    return save_png(figure)


def _draw_matrix(figure: Figure, axes: Axes, values: np.ndarray, names: list[str], label: str) -> None:
    shown = np.where(np.eye(len(values), dtype=bool), np.nan, values)  # the diagonal has no meaning
    reach = max(np.nanmax(np.abs(shown), initial=0.0), 1e-3)
    image = axes.imshow(shown, cmap="PuOr", vmin=-reach, vmax=reach)
    axes.set_title(label, loc="left", color=LIGHT.ink, fontsize=11)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, color=LIGHT.ink)
    axes.set_yticks(range(len(names)), names, fontsize=8, color=LIGHT.ink)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) <= _MOST_NUMBERS:
        for row, column in zip(*np.nonzero(~np.isnan(shown)), strict=True):
            value = shown[row, column]
            ink = LIGHT.background if abs(value) > 0.6 * reach else LIGHT.ink
            axes.text(
                column,
                row,
                f"{value:.2f}".replace("-", "\N{MINUS SIGN}"),
                ha="center",
                va="center",
                fontsize=7,
                color=ink,
            )
    draw_colour_bar(figure, axes, image, size=8, shrink=0.7)


def _frame_groups(axes: Axes, sizes: list[int]) -> None:
    first = 0
    for size in sizes:
        axes.add_patch(
            Rectangle((first - 0.5, first - 0.5), size, size, fill=False, edgecolor=LIGHT.ink, linewidth=1.6)
        )
        first += size
