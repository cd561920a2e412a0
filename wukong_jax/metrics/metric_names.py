"""How metrics of several domains and objectives are named, averaged and made ready for JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def name_metrics(
    compute_slice: Callable[[int | None, int], Mapping[str, float]],
    objective_names: Sequence[str],
    domain_names: Sequence[str],
) -> dict[str, float]:
    """Collects the metrics of every slice of the rows under flat names.

    `auc`                        one objective: over all rows; several: the mean over the objectives that have rows
                                 and define it (`rows`: of the objective observed most often)
    `<objective>/auc`            with several objectives: that objective, over all domains
    `<domain>/<objective>/auc`   with several domains: one domain of one objective

    An objective with rows whose predictions are not numbers has loss nan, and so has the mean: it is not hidden.

    Args:
      compute_slice: (domain or None for all, objective) -> metrics of those rows; must have `rows` and `log_loss`.
      objective_names: O names.
      domain_names: G names.

    Returns:
      Name to value.
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


def replace_nan_by_none(value: Any) -> Any:
    """Metrics ready for JSON, which has neither nan nor infinity: both become null, at any depth."""
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
        # An objective that diverged has nan everywhere and must show; one without rows or with one class must not.
        defined = [m[key] for m in objectives if m["rows"] > 0 and (_diverged(m) or not math.isnan(m[key]))]
        averaged[key] = float(np.mean(defined)) if defined else float("nan")
    averaged["rows"] = max(m["rows"] for m in objectives)
    return averaged


def _diverged(metrics: Mapping[str, float]) -> bool:
    return not math.isfinite(metrics["log_loss"])
