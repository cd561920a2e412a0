"""Formats the results of a run as a small text table."""

from collections.abc import Mapping
from typing import Any

_COLUMNS = (("auc", "AUC"), ("normalized_entropy", "NE"), ("log_loss", "log loss"))


def format_results(summary: Mapping[str, Any]) -> str:
    """Formats the test metrics of a summary, its references, and what ran.

    Args:
      summary: content of `summary.json`.

    Returns:
      Lines of text.
    """
    rows = {summary["name"]: summary.get("test") or summary.get("validation") or {}, **summary.get("references", {})}
    width = max(12, *(len(name) for name in rows))
    lines = [f"{'test' if summary.get('test') else 'validation':<{width}}" + "".join(f"{t:>12}" for _, t in _COLUMNS)]
    for name, metrics in rows.items():
        values = (metrics.get(key) for key, _ in _COLUMNS)
        lines.append(f"{name:<{width}}" + "".join(f"{'-' if v is None else format(v, '.6f'):>12}" for v in values))
    share = share_of_way(summary)
    if share is not None:
        lines.append(f"{100 * share:.1f} % of the way from the reference's log loss to Bayes'")
    lines.append(
        f"{summary['examples_seen']:,} examples, {summary['examples_per_second']:,.0f} examples/s, "
        f"{summary['dense_parameters']:,} dense and {summary['embedding_parameters']:,} embedding parameters, "
        f"{summary['train_flops_per_example'] / 1e6:.3f} training MFLOP per example"
    )
    return "\n".join(lines)


def share_of_way(summary: Mapping[str, Any]) -> float | None:
    """Computes how far the test log loss went from that of the reference run (0) to Bayes (1); None without both."""
    losses = {name: metrics["log_loss"] for name, metrics in summary.get("references", {}).items()}
    bayes = losses.pop("bayes", None)
    return compute_share_of_way(next(iter(losses.values()), None), summary.get("test", {}).get("log_loss"), bayes)


def compute_share_of_way(start: float | None, own: float | None, bayes: float | None) -> float | None:
    """Computes how far a log loss went from `start` (0) to `bayes` (1); None if one is None or `start` <= `bayes`."""
    if start is None or own is None or bayes is None or start <= bayes:
        return None
    return (start - own) / (start - bayes)
