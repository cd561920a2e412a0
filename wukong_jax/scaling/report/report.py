"""Writes the report of a sweep as `report.html`, a single file that works offline, and as PNG and CSV files."""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.scaling.report.analysis import DataResults, Row, analyse, check_rows
from wukong_jax.scaling.report.axes import PARAMETERS, choose_flops_axis, is_level
from wukong_jax.scaling.report.page import DataPart, Figure, Section, build_scaling_page
from wukong_jax.scaling.report.pictures import (
    Drawing,
    draw_curves,
    draw_data_curves,
    render_png,
    render_svg,
)
from wukong_jax.scaling.report.text import describe_point

_FIT_COLUMNS = (
    "data",
    "model",
    "form",
    "baseline",
    "points",
    *(f"{name}{end}" for name in ("floor", "scale", "exponent") for end in ("", "_low", "_high")),
    "relative_error",
    "held_out_mflop",
    "held_out_measured",
    *(f"held_out_predicted{end}" for end in ("", "_low", "_high")),
    "held_out_error",
    "held_out_relative_error",
    "held_out_covered",
    "problem",
    "held_out_problem",
)
_MATCH_COLUMNS = (
    "data",
    "model",
    "reference",
    "reference_size",
    "reference_mflop",
    "reference_loss",
    "kind",
    "factor",
    "factor_low",
    "factor_high",
    "floor_is_free",
)


def write_scaling_report(
    rows: Sequence[Row],
    folder: Path,
    title: str,
    notes: Sequence[str] = (),
    sections: Sequence[Section] = (),
    missing_units: int = 0,
    reference: str = "",
    baseline: str = "",
    resamples: int = 1000,
) -> Path:
    """Writes a sweep's report, with all points so far, to a folder.

    Files:
      report.html: the page.
      curve_flops.png, curve_parameters.png, curve_data.png: pictures of the first data set; for other data sets, the
        data set's name is appended (`curve_flops_field_aware.png`). Pictures without points are removed.
      points.csv: the rows.
      fits.csv: fitted laws over MFLOP (the paper's form over GFLOP) with 95 % intervals.
      compute_to_match.csv: a line for each size of the reference, and one of kind `mean of measured`.
      differences.csv: written if the reference has only one size.

    Args:
      rows: rows of `points.json`.
      folder: the folder, created if needed.
      title: title of the page; should say if the data is generated.
      notes: paragraphs under the title that describe the data and the search.
      sections: additional sections, after the curves.
      missing_units: number of runs of the sweep that have not ended.
      reference: the highlighted model, whose losses the others should match; empty for none.
      baseline: the model whose smallest size is the baseline of the paper's form; empty to skip fits of that form.
      resamples: number of resamples of the seeds, for intervals.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: a row lacks a key.
    """
    check_rows(rows)
    folder.mkdir(parents=True, exist_ok=True)
    everything = analyse(rows, reference, baseline, resamples)
    parts = []
    for i, results in enumerate(everything):
        suffix = "" if i == 0 else "_" + re.sub(r"\W+", "_", results.name)
        parts.append(DataPart(results, _draw_figures(results, folder, suffix, reference)))
    page = build_scaling_page(title, parts, notes, sections, missing_units, reference)
    write_text_whole(folder / "report.html", page)
    point_columns = list(dict.fromkeys(key for row in rows for key in row))
    write_text_whole(folder / "points.csv", format_csv(point_columns, rows))
    write_text_whole(folder / "fits.csv", format_csv(_FIT_COLUMNS, (fit for r in everything for fit in r.fits)))
    matches = (line for results in everything for line in _list_matches(results, reference))
    write_text_whole(folder / "compute_to_match.csv", format_csv(_MATCH_COLUMNS, matches))
    differences = [
        {"data": results.name, "reference": reference, **row} for results in everything for row in results.differences
    ]
    if differences:
        write_text_whole(folder / "differences.csv", format_csv(list(differences[0]), differences))
    else:
        (folder / "differences.csv").unlink(missing_ok=True)  # left by an earlier reference of one size
    return folder / "report.html"


def _draw_figures(results: DataResults, folder: Path, suffix: str, reference: str) -> list[Figure]:
    final = [row for rows in results.final.values() for row in rows]
    flops = choose_flops_axis(final)
    has_bars = any(row[f"{results.loss}_std"] is not None for row in final)
    shared = "Error bars: one standard deviation over seeds. " if has_bars else ""
    if any(is_level(row) for row in final):
        shared += "Horizontal lines: models without matrix products, which count as 0 FLOPs. "
    shared += "Both axes are logarithmic. Hover over a point for its options and settings."
    embedding = {row["embedding_parameters"] for row in final if row["embedding_parameters"] is not None}
    tables = f" ({embedding.pop():,}, the same for all)" if len(embedding) == 1 else ""
    law = (
        f" Dotted: the power law with a free floor fitted to {reference}."
        if reference in results.laws
        else f" No law with a free floor can be fitted to {reference}."
        if reference in results.final and len(results.final[reference]) > 1
        else ""
    )
    dotted = (
        f" The largest size of {reference} is repeated as a dotted line in every panel."
        if reference in results.models and len(results.models) > 1
        else ""
    )
    drawn = (
        (
            "curve_flops",
            "Loss against compute",
            f"Loss at the end of training against training FLOPs per example. {shared}{law}",
            draw_curves(f"curve_flops{suffix}", results, flops, reference, describe_point),
        ),
        (
            "curve_parameters",
            "Loss against dense parameters",
            f"The same points against parameters, without those of embeddings{tables}. {shared}",
            draw_curves(f"curve_parameters{suffix}", results, PARAMETERS, reference, describe_point),
        ),
        (
            "curve_data",
            "Loss against examples seen",
            "Loss during training for each size of a model, mean over seeds. Hollow points are on validation "
            f"rows; filled points, at the end, on {_name_splits(results)} rows.{dotted}",
            draw_data_curves(f"curve_data{suffix}", results, reference, describe_point),
        ),
    )
    figures = []
    for name, heading, caption, drawing in drawn:
        _write_png(folder / f"{name}{suffix}.png", drawing)
        figures.append(Figure(heading, caption, render_svg(drawing, heading) if drawing else None))
    return figures


def _name_splits(results: DataResults) -> str:
    splits = dict.fromkeys(str(row["split"]) for rows in results.final.values() for row in rows)
    return " and ".join(splits) or "test"


def _write_png(path: Path, drawing: Drawing | None) -> None:
    if drawing is None:
        path.unlink(missing_ok=True)  # left by earlier points
    else:
        path.write_bytes(render_png(drawing))


def _list_matches(results: DataResults, reference: str) -> Iterable[dict[str, Any]]:
    for model, match in results.matches.items():
        shared = {
            "data": results.name,
            "model": model,
            "reference": reference,
            "floor_is_free": match.law.floor_is_free if match.law else None,
        }
        for size, point in zip(results.reference_sizes, match.points, strict=True):
            yield {
                **shared,
                "reference_size": size,
                "reference_mflop": point.reference_compute,
                "reference_loss": point.reference_loss,
                "kind": point.kind,
                "factor": point.factor,
                "factor_low": point.interval.low if point.interval else None,
                "factor_high": point.interval.high if point.interval else None,
            }
        if match.mean is not None:
            yield {
                **shared,
                "kind": "mean of measured",
                "factor": match.mean,
                "factor_low": match.mean_interval.low if match.mean_interval else None,
                "factor_high": match.mean_interval.high if match.mean_interval else None,
            }


def format_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Formats rows as CSV with a header; missing values are empty, lists and mappings are JSON."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_format_cell(row.get(column)) for column in columns])
    return file.getvalue()


def _format_cell(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
