"""Builds the page of a run's report: one HTML file with embedded pictures and without scripts or downloads."""

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from wukong_jax.reports.html_page import build_page
from wukong_jax.reports.result_table import compute_share_of_way
from wukong_jax.runs.record import RunRecord, read_number
from wukong_jax.runs.summary_notes import describe_high_entropy

_METRIC_TITLES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "Log loss (nats)",
    "normalized_entropy": "Normalized entropy",
    "calibration": "Calibration",
    "rows": "Rows",
}


class Picture(NamedTuple):
    """A picture of the page in both themes; None if it has no data yet."""

    name: str
    caption: str
    light: bytes | None
    dark: bytes | None


def build_report_page(record: RunRecord, pictures: Sequence[Picture]) -> str:
    """Builds the complete page as HTML."""
    title = html.escape(record.name)
    parts = [
        f"<h1>{title}</h1>",
        _build_status(record),
        "<h2>Metrics</h2>",
        _build_metric_table(record),
        _build_gap_sentence(record),
        *(_build_figure(picture) for picture in pictures),
        _build_detail_tables(record),
        "<h2>What ran</h2>",
        _build_facts(record),
        "<details><summary>Full configuration</summary><pre>"
        f"{html.escape(json.dumps(record.config, indent=2))}</pre></details>",
    ]
    body = "\n".join(part for part in parts if part)
    return build_page(record.name, body, _STYLE)


def _build_status(record: RunRecord) -> str:
    summary = record.summary
    if summary is None:
        step = max((line["step"] for line in record.lines), default=0)
        return f'<p class="notice">This run has not finished. The figures are as of step {step:,}.</p>'
    because = summary.get("stopped_because")
    text = f"Finished at step {_format_count(summary.get('step'))}"
    text += f" ({html.escape(str(because))})" if because else ""
    scored = _format_count(summary.get("scored_step", summary.get("best_step")))
    text += f"; the metrics are of the state of step {scored}" if scored is not None else ""
    high = describe_high_entropy(summary)
    notice = f'<p class="notice">{html.escape(high[:1].upper() + high[1:])}.</p>' if high else ""
    return f"<p class='lead'>{text}.</p>{notice}"


def _build_metric_table(record: RunRecord) -> str:
    rows: list[tuple[str, Mapping[str, Any], str]] = []
    for split in ("test", "validation", "progressive"):
        metrics = record.metrics_of(split)
        if metrics:
            rows.append((split.capitalize(), metrics, "strong" if split == "test" else ""))
    for name, metrics in record.references.items():
        rows.append((f"{name[:1].upper()}{name[1:]} (reference)", metrics, "reference"))
    if not rows:
        return "<p>No evaluation yet.</p>"
    note = "<p class='lead'>References are scored on the test rows.</p>" if record.references else ""
    return _build_table("Scored", rows) + note


def _build_detail_tables(record: RunRecord) -> str:
    """Builds tables by objective and by domain, if there are such metrics."""
    split = "test" if record.metrics_of("test") else "validation"
    by_depth: dict[int, dict[str, dict[str, Any]]] = {1: {}, 2: {}}
    for name, value in record.metrics_of(split).items():
        group, _, metric = name.rpartition("/")
        depth = group.count("/") + 1
        if group and metric in _METRIC_TITLES and depth in by_depth:
            by_depth[depth].setdefault(group, {})[metric] = value
    parts = []
    for depth, heading in ((1, "By objective"), (2, "By domain and objective")):
        if by_depth[depth]:
            parts.append(f"<h2>{heading}, {split} rows</h2>")
            parts.append(_build_table("Group", [(name, metrics, "") for name, metrics in by_depth[depth].items()]))
    return "\n".join(parts)


def _build_table(corner: str, rows: Sequence[tuple[str, Mapping[str, Any], str]]) -> str:
    columns = [key for key in _METRIC_TITLES if any(key in metrics for _, metrics, _ in rows)]
    head = "".join(f"<th scope='col' class='number'>{_METRIC_TITLES[key]}</th>" for key in columns)
    body = []
    for name, metrics, kind in rows:
        cells = "".join(f"<td class='number'>{_format_metric(key, metrics)}</td>" for key in columns)
        body.append(f"<tr class='{kind}'><th scope='row'>{html.escape(name)}</th>{cells}</tr>")
    return (
        f"<div class='scroll'><table><thead><tr><th scope='col'>{corner}</th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _build_gap_sentence(record: RunRecord) -> str:
    """Describes where the test log loss is between those of a reference and of the true probabilities, if known."""
    losses = {name: read_number(metrics.get("log_loss")) for name, metrics in record.references.items()}
    ours, bayes = read_number(record.metrics_of("test").get("log_loss")), losses.pop("bayes", None)
    sentences = []
    for name, theirs in losses.items():
        share = compute_share_of_way(theirs, ours, bayes)
        if share is not None:
            sentences.append(f"{share:.1%} of the way from the test log loss of {html.escape(name)} to that of Bayes")
    if not sentences:
        return ""
    return f"<p>The model goes {' and '.join(sentences)}, the least that any model can expect.</p>"


def _build_figure(picture: Picture) -> str:
    heading = {"loss": "Loss", "auc": "AUC", "calibration": "Calibration"}.get(picture.name, picture.name)
    if picture.light is None or picture.dark is None:
        return f"<h2>{heading}</h2><p>No data for this picture yet.</p>"
    return (
        f"<h2>{heading}</h2><figure class='{picture.name}'><picture>"
        f"<source media='(prefers-color-scheme: dark)' srcset='{_as_data_url(picture.dark)}'>"
        f"<img src='{_as_data_url(picture.light)}' alt='{html.escape(picture.caption, quote=True)}'></picture>"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _build_facts(record: RunRecord) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in _list_facts(record)
    )
    return f"<table class='facts'><tbody>{rows}</tbody></table>"


def _list_facts(record: RunRecord) -> Iterable[tuple[str, str]]:
    config, summary = record.config, record.summary or {}
    data, training = config.get("data") or {}, config.get("training") or {}
    optimizer, embedding = config.get("optimizer") or {}, (config.get("embeddings") or {}).get("optimizer") or {}
    flops = read_number(summary.get("train_flops_per_example"))
    seconds = read_number(summary.get("wall_seconds"))
    facts = {
        "Model": (config.get("model") or {}).get("factory"),
        "Data": ", ".join(str(data[key]) for key in ("factory", "format", "schema", "path") if data.get(key)),
        "Seed": config.get("seed"),
        "Rows of a batch": _format_count(training.get("batch_size")),
        "Dense optimizer": _describe_optimizer(optimizer),
        "Embedding optimizer": _describe_optimizer(embedding),
        "Dense parameters": _format_count(summary.get("dense_parameters")),
        "Embedding parameters": _format_count(summary.get("embedding_parameters")),
        "Training cost": f"{_format_flops(flops)} per example" if flops is not None else None,
        "Examples seen": _format_count(summary.get("examples_seen")),
        "Speed": f"{_format_count(summary['examples_per_second'])} examples/s"
        if summary.get("examples_per_second")
        else None,
        "Time": _format_seconds(seconds) if seconds is not None else None,
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _describe_optimizer(optimizer: Mapping[str, Any]) -> str | None:
    # the tables' optimizers have a kind; the dense one had a name in earlier versions, and data a format
    name = optimizer.get("factory") or optimizer.get("name") or optimizer.get("kind")
    if not name:
        return None
    rate = read_number(optimizer.get("learning_rate"))
    return str(name) + (f", learning rate {rate:g}" if rate is not None else "")


def _format_metric(key: str, metrics: Mapping[str, Any]) -> str:
    number = read_number(metrics.get(key))
    if number is None:
        # a reference has fewer metrics; one that is there and no number is not defined
        return "not defined" if key in metrics else "&ndash;"
    bound = read_number(metrics.get("auc_error_bound")) if key == "auc" else None
    binned = ""
    if bound:
        rounded_up = math.ceil(bound * 1e5) / 1e5
        binned = f" <span title='binned; the exact AUC lies within this bound'>&plusmn; {rounded_up:.5f}</span>"
    return f"{number:,.0f}" if key == "rows" else f"{number:.5f}{binned}"


def _format_count(value: Any) -> str | None:
    number = read_number(value)
    return None if number is None else f"{number:,.0f}"


def _format_flops(flops: float) -> str:
    for unit, size in (("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return f"{flops:.0f} FLOP"


def _format_seconds(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _as_data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


_STYLE = """main { max-width: 60rem; }
h2 { margin: 2.2rem 0 .7rem; font-size: 1.2rem; }
th, td { padding: .5rem .8rem; }
thead th { font-size: .85rem; }
tbody th { font-weight: 500; }
.number { white-space: nowrap; }
.strong > * { font-weight: 700; }
.reference > * { color: var(--muted); }
.facts th { width: 14rem; color: var(--muted); }
.facts td { overflow-wrap: anywhere; }
figure img { display: block; width: 100%; height: auto; }
figure.calibration img { max-width: 36rem; margin: 0 auto; }
details { margin-top: 1.5rem; }
pre { padding: 1rem; overflow-x: auto; font-size: .85rem; background: var(--card); border: 1px solid var(--line); }
"""
