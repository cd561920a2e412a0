"""Picture of a grouping: affinities and gradient cosines of all pairs of portfolios, ordered by group."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

_INK, _MUTED, _PAPER = "#1c2128", "#59636e", "#ffffff"
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
    figure = Figure(figsize=(2 * side + 1.4, side + 0.8), dpi=110, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=_INK, fontsize=13, x=0.01, ha="left")
    parts = (("total", "Affinity"), ("cosine", "Cosine of gradients"))
    for axes, (key, label) in zip(figure.subplots(1, 2), parts, strict=True):
        values = np.array(described["affinity"][key])[np.ix_(order, order)]
        _draw_matrix(figure, axes, values, [names[i] for i in order], label)
        _frame_groups(axes, [len(group) for group in groups])
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=_PAPER)
    return file.getvalue()


def _draw_matrix(figure: Figure, axes: Axes, values: np.ndarray, names: list[str], label: str) -> None:
    shown = np.where(np.eye(len(values), dtype=bool), np.nan, values)  # the diagonal has no meaning
    reach = max(np.nanmax(np.abs(shown), initial=0.0), 1e-3)
    image = axes.imshow(shown, cmap="PuOr", vmin=-reach, vmax=reach)
    axes.set_title(label, loc="left", color=_INK, fontsize=11)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, color=_INK)
    axes.set_yticks(range(len(names)), names, fontsize=8, color=_INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) <= _MOST_NUMBERS:
        for row, column in zip(*np.nonzero(~np.isnan(shown)), strict=True):
            value = shown[row, column]
            ink = _PAPER if abs(value) > 0.6 * reach else _INK
            axes.text(
                column,
                row,
                f"{value:.2f}".replace("-", "\N{MINUS SIGN}"),
                ha="center",
                va="center",
                fontsize=7,
                color=ink,
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=_MUTED)


def _frame_groups(axes: Axes, sizes: list[int]) -> None:
    first = 0
    for size in sizes:
        axes.add_patch(Rectangle((first - 0.5, first - 0.5), size, size, fill=False, edgecolor=_INK, linewidth=1.6))
        first += size
