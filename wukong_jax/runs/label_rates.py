"""Start logits of a run from its training labels, and the early-stop metric's definition on its validation labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wukong_jax.config import TrainingConfig
from wukong_jax.data.blocks.label_sums import find_label_classes, sum_labels
from wukong_jax.errors import UserError
from wukong_jax.runs.rows import RunData
from wukong_jax.schema import Schema
from wukong_jax.training.start_logits import compute_start_logits


def load_start_logits(data: RunData) -> np.ndarray:
    """Computes the start logits of a new run, [G, O] float32, from its training labels.

    The sums are those of the folder's report.json; if it has none, because another version or command wrote it, the
    training rows are read once.
    """
    sums = read_label_sums(data.report, data.schema)
    return compute_start_logits(sum_labels(data.splits["train"]) if sums is None else sums)


def read_label_sums(report: Mapping[str, Any], schema: Schema) -> np.ndarray | None:
    """Reads `training_label_sums` of a report.json: {domain, or "all": {objective: [positive, observed]}}.

    Args:
      report: content of report.json.
      schema: resolved schema of the rows.

    Returns:
      [G, O, 2] float64, as from `sum_labels`; None if the report has no such sums for this schema.
    """
    by_domain = report.get("training_label_sums")
    domains, objectives = schema.domain_values or ("all",), [label.name for label in schema.labels]
    if not isinstance(by_domain, Mapping) or set(by_domain) != set(domains):
        return None
    if any(set(by_domain[domain]) != set(objectives) for domain in domains):
        return None
    sums = np.array([[by_domain[domain][name] for name in objectives] for domain in domains], np.float64)
    fits = sums.shape == (len(domains), len(objectives), 2)
    return (
        sums
        if fits and np.isfinite(sums).all() and (sums >= 0).all() and (sums[..., 0] <= sums[..., 1]).all()
        else None
    )


def check_validation(config: TrainingConfig, data: RunData) -> str:
    """Checks that early stopping and the learning rate's plateaus have a metric to read.

    Args:
      config: settings of the training loop.
      data: the run's rows.

    Returns:
      A message for the user if the early-stop metric is never defined on the validation rows, or only for a part of the
      objectives; else empty.

    Raises:
      UserError: early stopping or plateaus are on, and there are no validation rows, or the metric is never defined.
    """
    if "validation" not in data.splits:
        for key, value, idle in _reading(config):
            raise UserError(
                f"config.training.{key} = {value}: the data has no validation rows; set it to {idle} or prepare a "
                "validation split"
            )
        return ""
    metric = config.early_stop_metric
    names = [label.name for label in data.schema.labels]
    undefined = _find_undefined(data, metric, names)
    if len(undefined) < len(names):
        return "; ".join(
            f"validation rows have {why} of {name}: its {metric} is not defined" for name, why in undefined
        )
    why = undefined[0][1]
    fix = "prepare other validation rows" if why == _NONE else "choose config.training.early_stop_metric = 'log_loss'"
    for key, value, idle in _reading(config):
        raise UserError(
            f"config.training.early_stop_metric = {metric!r}: validation rows have {why}, so it is never defined there "
            f"and {key} = {value} has nothing to read; {fix}, or set {key} to {idle}"
        )
    return f"validation rows have {why}: {metric} is not defined there, so no state is the best; {fix}"


_NONE = "no observed labels"


def _find_undefined(data: RunData, metric: str, names: list[str]) -> list[tuple[str, str]]:
    """Lists the objectives on whose validation rows a metric is undefined, and which labels these have."""
    undefined = []
    for name, (negative, positive) in zip(
        names, find_label_classes(data.splits["validation"], len(names)), strict=True
    ):
        if not (negative or positive):
            undefined.append((name, _NONE))
        elif metric != "log_loss" and not (negative and positive):
            undefined.append((name, f"only {'negative' if negative else 'positive'} labels"))
    return undefined


def _reading(config: TrainingConfig) -> list[tuple[str, Any, Any]]:
    """Lists (key, value, value without an effect) of the settings that read the early-stop metric and are on."""
    settings = (("early_stop_patience", 0), ("plateau_factor", 1.0))
    return [(key, getattr(config, key), idle) for key, idle in settings if getattr(config, key) != idle]
