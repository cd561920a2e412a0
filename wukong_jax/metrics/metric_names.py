"""Names and averages the metrics of several domains and objectives, and prepares them for JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def name_metrics(
    compute_slice: Callable[[int | None, int], Mapping[str, float]],
    objective_names: Sequence[str],
    domain_names: Sequence[str],
) -> dict[str, float]:
    """Collects the metrics of every domain and objective under flat names.

    `auc`                        one objective: over all rows; several: the mean over the objectives that have rows
                                 and for which it is defined (`rows`: the largest count of any objective)
    `auc_objectives`             with several objectives: over how many of them the mean `auc` is; NE is over the same
    `<objective>/auc`            with several objectives: that objective, over all domains
    `<domain>/<objective>/auc`   with several domains: that domain and objective

    If an objective's predictions are nan, its loss is nan, and so is the mean, so that divergence is not hidden.

    Args:
      compute_slice: function of (domain, or None for all; objective) that returns the metrics of those rows, including
        `rows` and `log_loss`.
      objective_names: O names.
      domain_names: G names.

    Returns:
      The metrics by name.
    """
    objectives = [dict(compute_slice(None, o)) for o in range(len(objective_names))]
    named = _average_objectives(objectives)
    if len(objectives) > 1:
        for name, metrics in zip(objective_names, objectives, strict=True):
            named.update({f"{name}/{key}": value for key, value in metrics.items()})
    if len(domain_names) > 1:
        for g, domain in enumerate(domain_names):
            for o, name in enumerate(objective_names):
                named.update({f"{domain}/{name}/{key}": value for key, value in compute_slice(g, o).items()})
    return named


def format_metric(value: float | None, digits: int = 6, sign: str = "") -> str:
    """Formats a metric for people; one that is not defined on its rows (None, nan or infinite) says so."""
    return "not defined" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def replace_nan_by_none(value: Any) -> Any:
    """Replaces nan and infinity by None at any depth, since JSON has neither, and NumPy scalars by Python ones."""
    if isinstance(value, Mapping):
        return {key: replace_nan_by_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan_by_none(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _average_objectives(objectives: list[dict[str, float]]) -> dict[str, float]:
    if len(objectives) == 1:
        return dict(objectives[0])
    averaged = {}
    for key in objectives[0]:
        # nan must show for an objective that diverged, but not for one without rows or with one class.
        defined = [m[key] for m in objectives if m["rows"] > 0 and (_diverged(m) or not math.isnan(m[key]))]
        averaged[key] = float(np.mean(defined)) if defined else float("nan")
    averaged["rows"] = max(m["rows"] for m in objectives)
    averaged["auc_objectives"] = float(sum(not math.isnan(m["auc"]) for m in objectives))
    return averaged


def _diverged(metrics: Mapping[str, float]) -> bool:
    return not math.isfinite(metrics["log_loss"])
