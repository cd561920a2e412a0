"""Draws the step's time against each size that grew, beside the growth that is expected."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from wukong_jax.reports.theme import LIGHT, draw_open_frame, save_png, start_figure

TITLES = {
    "batch": "Rows of a batch",
    "width": "Embedding width D",
    "layers": "Interaction layers",
    "fields": "Categorical fields",
    "table_rows": "Rows of each table",
    "bag": "Ids of each bag",
}
_COLUMNS = 3


def draw_growth(sweeps: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """Draws one panel a sweep.

    Args:
      sweeps: rows of `bench.growth` by the size that grew, in ascending order.

    Returns:
      PNG bytes.
    """
    lines = -(-len(sweeps) // _COLUMNS)
    title = "Time of a train step as one size grows"
    figure = start_figure(10, 0.8 + 2.9 * lines, title, dpi=120)
    panels = figure.subplots(lines, _COLUMNS, squeeze=False)
    for axes, (name, rows) in zip(panels.flat, sweeps.items(), strict=False):
        _draw_sweep(axes, TITLES.get(name, name), rows)
    for axes in list(panels.flat)[len(sweeps) :]:
        axes.remove()
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        lines_of_panel, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, lines_of_panel, strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=10,
        labelcolor=LIGHT.ink,
    )
    return save_png(figure)


def _draw_sweep(axes: Axes, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    values, times = [row["value"] for row in rows], [row["median_ms"] for row in rows]
    expected = [times[0] * row["work_units"] / rows[0]["work_units"] for row in rows]
    work = {"ids": "ids", "FLOPs": "FLOPs", "constant": "a constant"}[rows[0]["work"]]
    draw_open_frame(axes, LIGHT, labels=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(values, expected, color=LIGHT.muted, linestyle="--", linewidth=1.4, label="Grown with its work")
    axes.plot(values, times, color=LIGHT.train, marker="o", markersize=5, linewidth=1.8, label="Median")
    above = [(row["value"], row["median_ms"]) for row in rows if row["above_its_order"]]
    if above:
        axes.plot(
            *zip(*above, strict=True),
            color=LIGHT.validation,
            marker="o",
            markersize=11,
            fillstyle="none",
            linestyle="none",
            label="Above its order",
        )
    low, high = min(times + expected), max(times + expected)
    axes.set_ylim(min(low, high / 4) / 1.3, max(high, low * 4) * 1.3)  # a flat line stays flat
    axes.set_title(
        f"{title}\nexponent {rows[0]['time_exponent']:.2f}; {work}: {rows[0]['expected_exponent']:.2f}",
        color=LIGHT.ink,
        fontsize=10,
        loc="left",
    )
    axes.set_ylabel("ms", color=LIGHT.ink, fontsize=9)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(values)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _format_size(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())


def _format_size(value: float) -> str:
    for size, unit in ((1_000_000, "M"), (10_000, "k")):
        if value >= size:
            return f"{value / (size if unit == 'M' else 1000):g}{unit}"
    return f"{value:g}"
