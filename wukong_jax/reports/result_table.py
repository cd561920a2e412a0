"""Formats the results of a run as small text tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from wukong_jax.metrics.metric_names import format_metric
from wukong_jax.runs.record import read_number

_COLUMNS = (("auc", "AUC"), ("normalized_entropy", "NE"), ("log_loss", "log loss"))
_MOST_DOMAINS = 20  # rows of the table by domain


def format_results(summary: Mapping[str, Any]) -> str:
    """Formats the test metrics of a summary, its references, the metrics by domain and objective, and what ran.

    Args:
      summary: content of `summary.json`.

    Returns:
      Lines of text.
    """
    split = "test" if summary.get("test") else "validation"
    rows = {summary["name"]: summary.get(split) or {}, **summary.get("references", {})}
    table = [[split, *(title for _, title in _COLUMNS)]]
    for name, metrics in rows.items():
        cells = (format_metric(metrics[key]) if key in metrics else "-" for key, _ in _COLUMNS)
        table.append([name, *cells])
    lines = _align(table) + _describe_mean(summary, rows[summary["name"]])
    share = share_of_way(summary)
    if share is not None:
        lines.append(f"{100 * share:.1f} % of the way from the reference's log loss to Bayes'")
    lines += format_domains(summary, split)
    lines.append(
        f"{summary['examples_seen']:,} examples, {summary['examples_per_second']:,.0f} examples/s, "
        f"{summary['dense_parameters']:,} dense and {summary['embedding_parameters']:,} embedding parameters, "
        f"{summary['train_flops_per_example'] / 1e6:.3f} training MFLOP per example"
    )
    return "\n".join(lines)


def format_domains(summary: Mapping[str, Any], split: str) -> list[str]:
    """Formats rows, AUC and NE of each objective: over all rows, and by domain, at most the 20 with the most rows.

    Args:
      summary: content of `summary.json`; those of earlier versions do not name domains and objectives.
      split: the split whose metrics are shown.

    Returns:
      Lines of text; none with one domain and one objective.
    """
    objectives, domains = summary.get("objectives", []), summary.get("domains", [])
    metrics = summary.get(split) or {}
    if not metrics or (len(objectives) < 2 and len(domains) < 2):
        return []
    several = len(objectives) > 1
    groups = {"all": {name: f"{name}/" if several else "" for name in objectives}}
    by_rows = {domain: {name: f"{domain}/{name}/" for name in objectives} for domain in domains if len(domains) > 1}
    shown = sorted(by_rows, key=lambda domain: -_count_rows(metrics, by_rows[domain]))[:_MOST_DOMAINS]
    groups |= {domain: prefixes for domain, prefixes in by_rows.items() if domain in shown}
    titles = [f"{name} {title}" if several else title for name in objectives for title in ("AUC", "NE")]
    table = [["domain" if by_rows else "objectives", "rows", *titles]]
    for group, prefixes in groups.items():
        keys = [prefix + key for prefix in prefixes.values() for key in ("auc", "normalized_entropy")]
        rows = f"{_count_rows(metrics, prefixes):,.0f}"
        table.append([group, rows, *(format_metric(read_number(metrics.get(key))) for key in keys)])
    lines = ["", *_align(table)]
    if len(by_rows) > len(shown):
        lines.append(f"the {len(shown)} domains with the most rows, of {len(by_rows):,}; all are in summary.json")
    return [*lines, ""]


def share_of_way(summary: Mapping[str, Any]) -> float | None:
    """Computes how far the test log loss went from that of the reference run (0) to Bayes (1); None without both."""
    losses = {name: read_number(metrics["log_loss"]) for name, metrics in summary.get("references", {}).items()}
    bayes, own = losses.pop("bayes", None), read_number(summary.get("test", {}).get("log_loss"))
    return compute_share_of_way(next(iter(losses.values()), None), own, bayes)


def compute_share_of_way(start: float | None, own: float | None, bayes: float | None) -> float | None:
    """Computes how far a log loss went from `start` (0) to `bayes` (1); None if one is None or `start` <= `bayes`."""
    if start is None or own is None or bayes is None or start <= bayes:
        return None
    return (start - own) / (start - bayes)


def _describe_mean(summary: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Says over how many objectives the means of AUC and NE are, if these are not all."""
    objectives, defined = len(summary.get("objectives", [])), read_number(metrics.get("auc_objectives"))
    if objectives < 2 or defined is None or defined >= objectives:
        return []
    return [f"AUC and NE are means over the {defined:.0f} of {objectives} objectives for which they are defined"]


def _count_rows(metrics: Mapping[str, Any], prefixes: Mapping[str, str]) -> float:
    """Returns a group's rows: the most that any objective has, since not every row has every label."""
    return max(read_number(metrics.get(f"{prefix}rows")) or 0.0 for prefix in prefixes.values())


def _align(table: Sequence[Sequence[str]]) -> list[str]:
    """Aligns cells in columns, the first to the left and the others to the right, at least 12 wide."""
    widths = [max(12, *(len(row[i]) + 2 * (i > 0) for row in table)) for i in range(len(table[0]))]
    return [
        f"{row[0]:<{widths[0]}}" + "".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in table
    ]
