"""Picture of a selection: features over two tasks, coloured by layer, and the number kept of each layer."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from lattice.filter.permutation_importance import TaskImportance
from wukong_jax.errors import UserError
from wukong_jax.reports.theme import FADED, LIGHT, dress_axes, save_png, start_figure

# Layers are ordered, so their colours are too: dark to light, distinguishable by lightness alone.
_COLOURS = tuple(to_hex(colour) for colour in colormaps["viridis"](np.linspace(0.0, 0.78, 7)))
_MOST_NAMES = 40
_MOST_BARS = 100
_PLACES = ((7, 0, "left"), (-7, 0, "right"), (7, 9, "left"), (7, -9, "left"), (-7, 9, "right"), (-7, -9, "right"))


def draw_fronts(
    tasks: TaskImportance,
    features: Sequence[str],
    layer: np.ndarray,
    kept: np.ndarray,
    title: str,
    axes: Sequence[str] = (),
) -> bytes:
    """Draws a selection.

    Args:
      tasks: the importances, [F, O].
      features: F names; kept features are labelled where there is room.
      layer: [F] integer, from 0.
      kept: [F] bool.
      title: title above the picture.
      axes: the two tasks to plot; empty: the first two. A single task is plotted over the features in schema order.

    Returns:
      PNG bytes.

    Raises:
      UserError: `axes` are not two of the tasks.
    """
    chosen = _choose_axes(tasks.tasks, axes)
    figure = start_figure(12.4, 6.4, title)
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1))
    points = _place_features(tasks.importance, chosen)
    _scale_axes(left, points, tasks.tasks, chosen)  # must come first: the scales determine the margins
    _draw_features(left, points, layer, kept)
    if len(tasks.tasks) == 2:
        _draw_stairs(left, points, layer)
    _draw_legend(left, int(layer.max()))
    _draw_sizes(right, layer, kept)
    figure.canvas.draw()  # placing names needs the final positions of everything else
    _draw_names(left, points, features, layer, kept)
    return save_png(figure)


def _choose_axes(tasks: Sequence[str], axes: Sequence[str]) -> list[int]:
    if not axes:
        return list(range(min(2, len(tasks))))
    if len(axes) != 2 or axes[0] == axes[1]:
        raise UserError(f"axes = {', '.join(axes)}: give two different tasks of {', '.join(tasks)}")
    for task in axes:
        if task not in tasks:
            raise UserError(f"axes = {', '.join(axes)}: no task {task!r}; there are {', '.join(tasks)}")
    return [tasks.index(task) for task in axes]


def _colour(layer: int) -> str:
    return _COLOURS[layer] if layer < len(_COLOURS) else FADED


def _place_features(importance: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Returns the position of each feature in the plot, [F, 2]."""
    if len(chosen) == 2:
        return importance[:, chosen]
    return np.column_stack([np.arange(1, len(importance) + 1), importance[:, chosen[0]]])


def _draw_features(axes: Axes, points: np.ndarray, layer: np.ndarray, kept: np.ndarray) -> None:
    order = np.argsort(-layer, kind="stable")  # earlier layers on top
    colours = np.array([_colour(int(index)) for index in layer])
    dropped, stays = order[~kept[order]], order[kept[order]]
    x, y = points[dropped].T
    axes.scatter(x, y, c=colours[dropped].tolist(), marker="x", s=26, linewidths=1.3, zorder=3)
    x, y = points[stays].T
    axes.scatter(x, y, c=colours[stays].tolist(), s=40, edgecolors=LIGHT.background, linewidths=0.6, zorder=3)


def _scale_axes(axes: Axes, points: np.ndarray, tasks: Sequence[str], chosen: list[int]) -> None:
    """Sets scales, zero lines, grid and labels of the axes."""
    names = [f"Importance for {tasks[index]}: rise of log loss (nats)" for index in chosen]
    axes.set_yscale("symlog", linthresh=_find_linear_part(points[:, 1]))
    axes.axhline(0, color=LIGHT.muted, linewidth=0.8, zorder=1)
    if len(chosen) == 2:
        axes.set_xscale("symlog", linthresh=_find_linear_part(points[:, 0]))
        axes.axvline(0, color=LIGHT.muted, linewidth=0.8, zorder=1)
    else:
        names = ["Feature, in the schema's order", *names]
    others = len(tasks) - len(chosen)
    note = f"; the layers also see {others} other task{'s' if others > 1 else ''}" if others else ""
    dress_axes(axes, f"{len(points)} features by layer{note}", names[0], names[1])


def _draw_stairs(axes: Axes, points: np.ndarray, layer: np.ndarray) -> None:
    """Draws the front of each coloured layer; the features it dominates lie below and to the left."""
    for index in range(min(len(_COLOURS), int(layer.max()) + 1)):
        x, y = points[layer == index][np.argsort(points[layer == index, 0])].T
        axes.step(x, y, where="pre", color=_colour(index), linewidth=1.0, alpha=0.6, zorder=2)


def _find_linear_part(values: np.ndarray) -> float:
    """Returns where an axis changes from linear to logarithmic: the power of ten above 1 % of the largest value."""
    largest = float(np.abs(values).max())
    return 10.0 ** math.ceil(math.log10(largest) - 2) if largest > 0 else 1.0


def _draw_legend(axes: Axes, last: int) -> None:
    shown = min(last + 1, len(_COLOURS))
    marks = [_mark(_colour(index), "s", f"Layer {index + 1}") for index in range(shown)]
    if last >= len(_COLOURS):
        later = f"Layers {shown + 1} to {last + 1}" if last > shown else f"Layer {last + 1}"
        marks.append(_mark(FADED, "s", later))
    marks += [_mark(LIGHT.ink, "o", "Kept"), _mark(LIGHT.ink, "x", "Dropped")]
    axes.legend(
        handles=marks,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=5,
        frameon=False,
        fontsize=9,
        labelcolor=LIGHT.ink,
        handletextpad=0.2,
    )


def _mark(colour: str, marker: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="", markersize=7, label=label)


def _draw_names(axes: Axes, points: np.ndarray, features: Sequence[str], layer: np.ndarray, kept: np.ndarray) -> None:
    """Labels kept features, earlier layers first, where the name covers no other name or point.

    Features without such a place, and features that share one point, get no label.
    """
    _, place_of, sharing = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    named = kept & (sharing[place_of.reshape(-1)] == 1)
    spots = axes.transData.transform(points)
    frame = axes.get_window_extent()
    taken: list[Bbox] = []
    for place in np.lexsort((layer, ~named))[: min(_MOST_NAMES, int(named.sum()))]:
        for dx, dy, side in _PLACES:
            text = axes.annotate(
                features[place],
                points[place],
                (dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8.5,
                color=LIGHT.ink,
                zorder=4,
            )
            text.set_path_effects([withStroke(linewidth=2.2, foreground=LIGHT.background)])
            if _fits(text, frame, taken, spots):
                text.set_in_layout(False)
                break
            text.remove()


def _fits(text: Text, frame: Bbox, taken: list[Bbox], spots: np.ndarray) -> bool:
    box = text.get_window_extent()
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    covers = ((spots > (box.x0, box.y0)) & (spots < (box.x1, box.y1))).all(axis=1).any()
    if not inside or covers or any(box.overlaps(other) for other in taken):
        return False
    taken.append(box)
    return True


def _draw_sizes(axes: Axes, layer: np.ndarray, kept: np.ndarray) -> None:
    layers = int(layer.max()) + 1
    sizes, stays = np.bincount(layer, minlength=layers), np.bincount(layer[kept], minlength=layers)
    if layers > _MOST_BARS:
        edges = np.arange(layers + 1) + 0.5
        axes.stairs(sizes, edges, color=LIGHT.muted, linewidth=1.0, zorder=3)
        axes.stairs(stays, edges, fill=True, color=_COLOURS[0], zorder=3)
    else:
        x = np.arange(1, layers + 1)
        colours = [_colour(index) for index in range(layers)]
        axes.bar(x, stays, color=colours, width=0.8, zorder=3)
        axes.bar(
            x, sizes - stays, bottom=stays, color=LIGHT.background, edgecolor=colours, hatch="////", width=0.8, zorder=3
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"{int(kept.sum())} kept (filled), {int((~kept).sum())} dropped"
    dress_axes(axes, title, "Layer", "Features", grid="y")
