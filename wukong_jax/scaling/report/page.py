"""Builds the page of a scaling report: HTML with embedded pictures, without scripts or external resources."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from wukong_jax.reports.html_page import build_page
from wukong_jax.runs.record import read_number
from wukong_jax.scaling.law.matched_compute import (
    AT_MOST,
    EXTRAPOLATED,
    MEASURED,
    NEVER,
    MatchedCompute,
    MatchedPoint,
)
from wukong_jax.scaling.report.analysis import DataResults, Row
from wukong_jax.scaling.report.pictures import list_css_colours, list_undrawn
from wukong_jax.scaling.report.text import (
    DASH,
    FACTORS_SHOWN,
    describe_state,
    describe_structure,
    format_any,
    format_count,
    format_flops,
    format_interval,
    format_number,
    format_options,
    format_share,
    format_spread,
    format_times,
)

_COVERED = {True: "yes", False: "no", None: "\N{EN DASH}"}
_WORDY = {"Options": "long words", "Remark": "words", "State": "words"}  # columns whose texts may wrap

_Column = tuple[str, bool, Callable[[Row], str]]  # heading, whether it has numbers, text of a row


class Section(NamedTuple):
    """A section that the caller adds to the page, such as ablations or searched settings."""

    heading: str
    text: str  # a paragraph; may be empty
    rows: Sequence[Mapping[str, Any]] = ()  # a table with the rows' keys as columns


class Figure(NamedTuple):
    """A picture of the page."""

    heading: str
    caption: str
    svg: str | None  # None if there are no points to draw yet


class DataPart(NamedTuple):
    """The results and pictures of one data set."""

    results: DataResults
    figures: Sequence[Figure]


def build_scaling_page(
    title: str,
    parts: Sequence[DataPart],
    notes: Sequence[str],
    sections: Sequence[Section],
    missing_units: int,
    reference: str,
) -> str:
    """Builds the whole page as HTML."""
    body = [f"<h1>{html.escape(title)}</h1>", _build_notices(parts, missing_units)]
    body += [f"<p>{html.escape(note)}</p>" for note in notes]
    if not parts:
        body.append("<p>No points yet.</p>")
    for part in parts:
        body += _build_data(part, reference, len(parts) > 1)
    for section in sections:
        body.append(f"<h2>{html.escape(section.heading)}</h2>")
        body.append(f"<p>{html.escape(section.text)}</p>" if section.text else "")
        body.append(_build_plain_table(section.rows) if section.rows else "")
    colours = list_css_colours()
    light = " ".join(f"{name}: {value};" for name, value, _ in colours)
    dark = " ".join(f"{name}: {value};" for name, _, value in colours)
    colour = f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    return build_page(title, "\n".join(text for text in body if text), colour + _STYLE)


def _build_notices(parts: Sequence[DataPart], missing_units: int) -> str:
    notices = []
    if missing_units:
        are = "run is" if missing_units == 1 else "runs are"
        notices.append(f"This sweep has not finished: {missing_units:,} {are} still missing.")
    for part in parts:
        results = part.results
        ended = {(model, row["size"]) for model, rows in results.final.items() for row in rows}
        under_way = dict.fromkeys((row["model"], row["size"]) for row in results.along)
        waiting = [f"{model} {size}" for model, size in under_way if (model, size) not in ended]
        if waiting:
            notices.append(f"{results.name}: not at the end of training yet: {', '.join(waiting)}.")
        finals = [row for rows in results.final.values() for row in rows]
        seen = sorted({count for row in finals if (count := read_number(row["examples_seen"])) is not None})
        if len(seen) > 1:
            notices.append(
                f"{results.name}: the points at the end did not see equally many examples "
                f"({format_count(seen[0])} to {format_count(seen[-1])})."
            )
        undrawn = list_undrawn(results)
        if undrawn:
            notices.append(f"{results.name}: without a place on the axes: {', '.join(undrawn)}.")
    return "".join(f'<p class="notice">{html.escape(notice)}</p>' for notice in notices)


def _build_data(part: DataPart, reference: str, several: bool) -> Iterable[str]:
    results = part.results
    # The Bayes loss is known only for generated data, whose true probabilities are known.
    kind = "Generated data" if results.bayes_log_loss is not None else "Data"
    yield f"<h2>{kind}: {html.escape(results.name)}</h2>"
    yield _build_lead(results)
    for figure in part.figures:
        yield _build_figure(figure)
    yield f"<h3>Points{_of(results, several)}</h3>"
    yield _build_points([row for rows in results.final.values() for row in rows])
    if results.along:
        yield f"<details><summary>Points along training, on validation rows ({len(results.along):,})</summary>"
        yield _build_points(results.along) + "</details>"
    yield f"<h3>Fitted laws{_of(results, several)}</h3>"
    yield _build_fits(results)
    if results.differences:
        yield f"<h3>Against {html.escape(reference)}{_of(results, several)}</h3>"
        yield _build_differences(results.differences)
    elif reference:
        yield f"<h3>Compute to match {html.escape(reference)}{_of(results, several)}</h3>"
        yield _build_matches(results, reference)


def _of(results: DataResults, several: bool) -> str:
    return f", {html.escape(results.name)}" if several else ""


def _build_lead(results: DataResults) -> str:
    rows = [row for group in results.final.values() for row in group if read_number(row[results.loss]) is not None]
    if not rows:
        return "<p class='lead'>No size has come to the end of training.</p>"
    best = min(rows, key=lambda row: row[results.loss])
    what = "loss above Bayes" if results.is_excess else "log loss"
    text = (
        f"Lowest {what}: {format_spread(best, results.loss)}, {best['model']} {best['size']} "
        f"at {format_flops(best['train_flops_per_example'])} per example."
    )
    if results.bayes_log_loss is not None:
        text += f" Bayes log loss, of the probabilities that labels were drawn from: {results.bayes_log_loss:.5f}."
    return f"<p class='lead'>{html.escape(text)}</p>"


def _build_figure(figure: Figure) -> str:
    heading = f"<h3>{html.escape(figure.heading)}</h3>"
    if figure.svg is None:
        return f"{heading}<p>No point for this picture yet.</p>"
    return f"{heading}<figure>{figure.svg}<figcaption>{html.escape(figure.caption)}</figcaption></figure>"


def _build_points(rows: Sequence[Row]) -> str:
    columns: list[_Column] = [
        ("Model", False, lambda row: row["model"]),
        ("Size", False, lambda row: row["size"]),
        ("Training cost", True, lambda row: format_flops(row["train_flops_per_example"])),
        ("Dense parameters", True, lambda row: format_count(row["parameters"])),
        ("Examples", True, lambda row: format_count(row["examples_seen"])),
        ("Log loss", True, lambda row: format_spread(row, "log_loss")),
        ("Above Bayes", True, lambda row: format_spread(row, "excess_log_loss")),
        ("AUC", True, lambda row: format_spread(row, "auc")),
        ("Seeds", False, lambda row: ", ".join(map(str, row["seeds"])) or DASH),
        ("Learning rate", True, lambda row: format_number(row["learning_rate"])),
        ("Of embeddings", True, lambda row: format_number(row["embedding_learning_rate"])),
        ("Initial scale", True, lambda row: format_number(row["initial_scale"])),
        ("Norm", False, describe_structure),
        ("Embedding parameters", True, lambda row: format_count(row["embedding_parameters"])),
        ("State", False, describe_state),
        ("Options", False, lambda row: format_options(row["options"])),
    ]
    unused = {
        "Above Bayes": all(row["excess_log_loss"] is None for row in rows),
        "State": not any(describe_state(row) for row in rows),
    }
    return _build_columns([column for column in columns if not unused.get(column[0])], rows)


def _build_fits(results: DataResults) -> str:
    single = [model for model, rows in results.final.items() if model not in {fit["model"] for fit in results.fits}]
    without = f"<p>Too few sizes for a law: {html.escape(', '.join(single))}.</p>" if single else ""
    if not results.fits:
        return without or "<p>No points to fit.</p>"
    law = _LAW_TEXT.format("Loss above Bayes" if results.is_excess else "Log loss")
    baseline = next((fit["baseline"] for fit in results.fits if fit.get("baseline")), None)
    paper = f" {_PAPER_TEXT.format(html.escape(baseline))}" if baseline else ""
    laws = _build_columns(
        [
            ("Model", False, lambda fit: fit["model"]),
            ("Form", False, lambda fit: fit["form"]),
            ("Points", True, lambda fit: str(fit["points"])),
            ("Floor", True, lambda fit: format_interval(fit, "floor")),
            ("Scale", True, lambda fit: format_interval(fit, "scale")),
            ("Exponent", True, lambda fit: format_interval(fit, "exponent")),
            ("Misfit", True, lambda fit: format_share(fit.get("relative_error"))),
            ("Remark", False, lambda fit: fit.get("problem") or ""),
        ],
        results.fits,
    )
    checks = _build_columns(
        [
            ("Model", False, lambda fit: fit["model"]),
            ("Form", False, lambda fit: fit["form"]),
            (
                "Held out",
                True,
                lambda fit: format_flops(1e6 * fit["held_out_mflop"]) if "held_out_mflop" in fit else DASH,
            ),
            ("Measured", True, lambda fit: format_number(fit.get("held_out_measured"))),
            ("Predicted", True, lambda fit: format_interval(fit, "held_out_predicted")),
            ("Off by", True, lambda fit: format_number(fit.get("held_out_error"))),
            ("In percent", True, lambda fit: format_share(fit.get("held_out_relative_error"), signed=True)),
            ("Covered", False, lambda fit: _COVERED[fit.get("held_out_covered")]),
            ("Remark", False, lambda fit: fit.get("held_out_problem") or ""),
        ],
        [fit for fit in results.fits if "held_out_mflop" in fit or "held_out_problem" in fit],
    )
    return f"<p>{law}{paper} {_FIT_TEXT}</p>{laws}{without}<p>{_CHECK_TEXT}</p>{checks}"


def _build_differences(rows: Sequence[Row]) -> str:
    columns: list[_Column] = [
        ("Model", False, lambda row: row["model"]),
        ("Size", False, lambda row: row["size"]),
        ("Cost", True, lambda row: format_times(row["cost"])),
        ("Difference in loss", True, lambda row: format_spread(row, "difference")),
        ("Seeds", True, lambda row: str(row["seeds"])),
    ]
    return f"<p>{_DIFFERENCE_TEXT}</p>" + _build_columns(columns, rows)


def _build_matches(results: DataResults, reference: str) -> str:
    if not results.matches:
        return f"<p>This needs final points of {html.escape(reference)} and of another model.</p>"
    points = next(iter(results.matches.values())).points
    columns = [("Model", False), ("Mean of measured", True)]
    columns += [
        (f"{size} ({format_flops(1e6 * point.reference_compute)})", True)
        for size, point in zip(results.reference_sizes, points, strict=True)
    ]
    columns.append(("Past the largest point", False))
    body = [
        [model, _format_mean(match), *(_format_factor(point) for point in match.points), _describe_law(match)]
        for model, match in results.matches.items()
    ]
    text = _MATCH_TEXT.format(html.escape(reference))
    return f"<p>{text}</p>" + _build_table(columns, body)


def _format_mean(match: MatchedCompute) -> str:
    if match.mean is None:
        return DASH
    interval = match.mean_interval
    brackets = f" [{format_times(interval.low)}, {format_times(interval.high)}]" if interval else ""
    return f"{format_times(match.mean)}{brackets} ({match.count(MEASURED)} of {len(match.points)})"


def _format_factor(point: MatchedPoint) -> str:
    brackets = ""
    if point.interval and point.factor < FACTORS_SHOWN:
        brackets = f" [{format_times(point.interval.low)}, {format_times(point.interval.high)}]"
    if point.kind in (MEASURED, EXTRAPOLATED):
        return format_times(point.factor) + brackets + (", extrapolated" if point.kind == EXTRAPOLATED else "")
    return f"at most {format_times(point.factor)}" if point.kind == AT_MOST else point.kind


def _describe_law(match: MatchedCompute) -> str:
    if match.law is None:
        return "no law"
    if not any(point.kind in (EXTRAPOLATED, NEVER) for point in match.points):
        return "not needed"
    return "law with a free floor" if match.law.floor_is_free else "law with floor 0 (few sizes), optimistic"


def _build_columns(columns: Sequence[_Column], rows: Sequence[Row]) -> str:
    heads = [(name, is_number) for name, is_number, _ in columns]
    return _build_table(heads, [[read(row) for _, _, read in columns] for row in rows])


def _build_plain_table(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = [(key, all(not isinstance(row.get(key), str) for row in rows)) for key in keys]
    return _build_table(columns, [[format_any(row.get(key)) for key in keys] for row in rows])


def _build_table(columns: Sequence[tuple[str, bool]], body: Sequence[Sequence[str]]) -> str:
    """Builds a table whose first column has the row headings; columns are (name, whether they have numbers)."""
    kinds = ["number" if is_number else _WORDY.get(name, "") for name, is_number in columns]
    classes = [f" class='{kind}'" if kind else "" for kind in kinds]
    head = "".join(
        f"<th scope='col'{c}>{html.escape(name)}</th>" for (name, _), c in zip(columns, classes, strict=True)
    )
    lines = []
    for row in body:
        first, *rest = [html.escape(text) for text in row]
        cells = "".join(f"<td{c}>{text}</td>" for text, c in zip(rest, classes[1:], strict=True))
        lines.append(f"<tr><th scope='row'>{first}</th>{cells}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(lines) + "</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


_LAW_TEXT = (
    "{} = floor + scale &times; C<sup>&minus;exponent</sup>, with C in training MFLOP per example; the floor is "
    "fitted (at least 0) or set to the Bayes loss."
)
_PAPER_TEXT = (
    "The paper&rsquo;s form is: loss relative to {}, in percent = &minus;100 + scale &times; "
    "C<sup>&minus;exponent</sup>, with C in GFLOP."
)
_FIT_TEXT = (
    "Brackets: 95 % confidence intervals from resampled seeds; they cover the noise of training, but not a wrong form "
    "of the law. Misfit: root mean square distance of the points from the law, relative to the loss."
)
_CHECK_TEXT = (
    "To check the form, each law is fitted again without the largest point and predicts that point. The interval "
    "covers the noise over seeds of the fit and of the point; with three seeds it is somewhat too narrow."
)
_DIFFERENCE_TEXT = (
    "Difference to the loss of the reference with the same seed, mean and standard deviation over seeds; negative is "
    "better. Cost: training FLOPs relative to the reference."
)
_MATCH_TEXT = (
    "Training FLOPs that a model needs for the loss of each size of {0}, as a multiple of the FLOPs of that size; "
    "95 % confidence intervals over seeds in brackets. Plain numbers are interpolated between two measured sizes of "
    "the model. Extrapolated: beyond its largest size, by its fitted law. At most: its smallest size is already as "
    "good. Never: its law levels off above that loss. Not reached: no measured size reaches the loss, and no law can "
    "be fitted. If a larger size is worse than a smaller one, the smaller one&rsquo;s loss counts. The mean is "
    "geometric, over measured values only. It does not rank models, since they are measured at different sizes of {0}."
)

_STYLE = """main { max-width: 74rem; }
main > p { max-width: 52rem; }
.scroll + p { margin-top: 1.2rem; }
h2 { margin: 2.6rem 0 .7rem; font-size: 1.4rem; }
h3 { margin: 2rem 0 .6rem; font-size: 1.1rem; }
table { font-size: .82rem; }
th, td { padding: .35rem .5rem; }
thead th { font-size: .8rem; }
tbody th { font-weight: 600; white-space: nowrap; position: sticky; left: 0; background: var(--card); }
td { white-space: nowrap; }
td.words { min-width: 12rem; max-width: 40rem; white-space: normal; }
td.long { min-width: 26rem; }
figcaption { max-width: 52rem; }
svg.curves { display: block; width: 100%; height: auto; }
svg.curves text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif !important; }
svg.curves .point { cursor: help; }
svg.curves .point:hover use { opacity: .35 !important; }
details { margin-top: 1rem; }
sup { line-height: 0; }
"""
