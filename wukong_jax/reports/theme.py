"""Defines the style of all pictures: light and dark colours, figures, axes and saving as PNG."""

import dataclasses
import io
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, distinguishable with any colour vision.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#8c6d00", "#56b4e9", "#1c2128", "#e69f00")
FADED = "#b3bac2"  # for what matters least


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a picture."""

    background: str
    ink: str
    muted: str
    grid: str
    train: str
    validation: str
    test: str
    others: tuple[str, ...]  # references and single objectives


LIGHT = Theme(
    background="#ffffff",
    ink="#1c2128",
    muted="#59636e",
    grid="#e3e7ec",
    train=PALETTE[0],
    validation=PALETTE[1],
    test="#1c2128",
    others=(PALETTE[2], PALETTE[3], PALETTE[4], "#3b8bc2"),
)
DARK = Theme(
    background="#161b22",
    ink="#e6edf3",
    muted="#9aa5b1",
    grid="#2b323b",
    train=PALETTE[5],
    validation="#f0853c",
    test="#e6edf3",
    others=("#2fc79b", "#d98bc0", "#e6c24a", "#7fb2e5"),
)


def start_figure(
    width: float,
    height: float,
    title: str = "",
    *,
    dpi: int = 110,
    theme: Theme = LIGHT,
    layout: Literal["constrained"] | None = "constrained",
) -> Figure:
    """Creates a figure without a display; sizes are in inches, and the title is left-aligned."""
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=theme.background, layout=layout)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, color=theme.ink, fontsize=13, x=0.01, ha="left")
    return figure


def save_png(figure: Figure) -> bytes:
    """Returns the figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor=figure.get_facecolor())
    return file.getvalue()


def dress_axes(
    axes: Axes, title: str, x: str, y: str, grid: Literal["both", "x", "y"] = "both", theme: Theme = LIGHT
) -> None:
    """Sets title, labels and grid of axes without a frame."""
    axes.set_title(title, color=theme.ink, fontsize=11, loc="left")
    axes.set_xlabel(x, color=theme.ink, fontsize=10)
    axes.set_ylabel(y, color=theme.ink, fontsize=10)
    axes.grid(axis=grid, color=theme.grid, linewidth=0.8, zorder=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", colors=theme.muted, labelsize=9, length=0)


def draw_open_frame(axes: Axes, theme: Theme, labels: float) -> None:
    """Draws a grid behind the data and a frame open at the top and right; `labels` is the font size of tick labels."""
    axes.set_facecolor(theme.background)
    axes.grid(visible=True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.muted)
    axes.tick_params(which="both", colors=theme.muted, labelsize=labels)


def draw_colour_bar(figure: Figure, axes: Axes, image: object, size: float, **place: float) -> Axes:
    """Adds a colour bar without a frame beside the axes, and returns its axes."""
    bar = figure.colorbar(image, ax=axes, **place)  # type: ignore[arg-type]
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(colors=LIGHT.muted, labelsize=size)
    return bar.ax
