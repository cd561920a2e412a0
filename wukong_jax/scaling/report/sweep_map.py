"""Maps several sweeps: where a reference's compute pays, over two properties of their generated data.

For each sweep (a cell of the map) and each rival: the compute that the rival needs for the reference's lowest loss, as
a multiple of what the reference needs (`law.matched_compute`).
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.reports.theme import LIGHT, draw_colour_bar, save_png, start_figure
from wukong_jax.scaling.law.matched_compute import AT_MOST, EXTRAPOLATED, NEVER, NOT_REACHED
from wukong_jax.scaling.report.analysis import analyse, check_rows

MOST_TIMES = 32.0  # the colours end here

Row = dict[str, Any]


def read_sweeps(folder: Path) -> Iterator[tuple[str, str, list[Row]]]:
    """Yields (name of the folder, name of the data, points) of each sweep in a folder, by name.

    Raises:
      UserError: there is no sweep with points, or the points are of something else.
    """
    paths = sorted(folder.glob("*/points.json"))
    if not paths:
        raise UserError(f"--sweeps = {folder}: has no */points.json; give the folder that holds the sweeps' --workdir")
    for path in paths:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        if not rows:
            raise UserError(f"{path}: has no points yet; let the sweep end, or move its folder away")
        try:
            check_rows(rows)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        yield path.parent.name, rows[0]["data"], rows


def compare_rivals(rows: Sequence[Mapping[str, Any]], reference: str) -> list[Row]:
    """Compares every other model of several sizes with the reference's lowest loss.

    Args:
      rows: points of one sweep.
      reference: the model whose lowest loss the others should reach.

    Returns:
      One row for each rival, the one that needs the least compute first: `model`, `kind` and `factor` (see
      `MatchedPoint`; None where the loss is not reached), `reference_size`, `reference_mflop`, `reference_loss`, and
      the rival's `lowest_loss`. Losses are relative to Bayes' where it is known.

    Raises:
      UserError: the reference has fewer than two sizes.
    """
    results = analyse(rows, reference, baseline="")[0]
    if not results.matches:
        raise UserError(f"--reference = {reference}: {results.name} needs two of its sizes and another model")
    own = [row for row in results.final[reference] if row["size"] in results.reference_sizes]
    best = int(np.argmin([row[results.loss] for row in own]))
    compared = []
    for model, matched in results.matches.items():
        point = matched.points[best]
        losses = [row[results.loss] for row in results.final[model] if row[results.loss] is not None]
        if len(losses) < 2:
            continue  # a model of one size has no curve
        compared.append(
            {
                "model": model,
                "kind": point.kind,
                "factor": point.factor if math.isfinite(point.factor) else None,
                "reference": reference,
                "reference_size": own[best]["size"],
                "reference_mflop": point.reference_compute,
                "reference_loss": own[best][results.loss],
                "lowest_loss": min(losses),
                "seeds": own[best]["seeds"],
            }
        )
    return sorted(compared, key=lambda row: math.inf if row["factor"] is None else row["factor"])


def place_cells(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (columns, rows) of the map for cells named COLUMN.ROW; columns are in order of their numbers.

    Raises:
      UserError: a name has another form.
    """
    for name in names:
        if not name.partition(".")[0].isdigit() or not name.partition(".")[2]:
            raise UserError(f"sweep {name!r}: its folder must be named NUMBER.ROW, such as 64.pairs")
    columns = sorted({name.partition(".")[0] for name in names}, key=int)
    return columns, list(dict.fromkeys(name.partition(".")[2] for name in names))


def describe_rival(row: Mapping[str, Any]) -> str:
    """Returns the text of a cell: how many times the reference's compute its strongest rival needs."""
    factor = row["factor"]
    if row["kind"] in (NEVER, NOT_REACHED) or factor is None:
        return "none reaches it"
    sign = {AT_MOST: "< ", EXTRAPOLATED: "~ "}.get(row["kind"], "")
    number = f"{factor:.2g}" if factor < 100 else f"{factor:,.0f}"
    return f"{sign}{number} x\n{row['model']}"


def draw_map(strongest: Mapping[str, Mapping[str, Any]], title: str, column: str) -> bytes:
    """Draws the strongest rival of each cell.

    Args:
      strongest: name of the cell to its strongest rival's row of `compare_rivals`.
      title: title of the picture.
      column: what the columns' numbers are.

    Returns:
      A PNG file. Purple: the reference needs less compute than any rival; orange: more.
    """
    columns, rows = place_cells(list(strongest))
    values = np.full((len(rows), len(columns)), np.nan)
    figure = start_figure(2.0 + 1.5 * len(columns), 1.6 + 0.9 * len(rows), title)
    axes = figure.add_subplot()
    most = math.log2(MOST_TIMES)
    for name, row in strongest.items():
        number, _, kind = name.partition(".")
        i, j = rows.index(kind), columns.index(number)
        times = math.inf if row["factor"] is None else row["factor"]
        values[i, j] = min(max(math.log2(times), -most), most) if times > 0 else -most
        axes.text(j, i, describe_rival(row), ha="center", va="center", color=LIGHT.ink, fontsize=9)
    image = axes.imshow(values, cmap="PuOr", vmin=-1.6 * most, vmax=1.6 * most, aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(column, color=LIGHT.ink, fontsize=10)
    axes.tick_params(colors=LIGHT.muted, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    bar = draw_colour_bar(figure, axes, image, 8)
    ticks = [-4, -2, 0, 2, 4]
    bar.set_yticks(ticks, [f"{2.0**tick:g} x" for tick in ticks])
    bar.set_ylim(-most, most)
    return save_png(figure)
