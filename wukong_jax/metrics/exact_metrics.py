"""Computes the metrics of a whole split from its logits, in float64 on the host, with exact AUC and GAUC."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from wukong_jax.metrics.auc import compute_auc
from wukong_jax.metrics.calibration import compute_calibration
from wukong_jax.metrics.grouped_auc import compute_grouped_auc
from wukong_jax.metrics.metric_names import name_metrics
from wukong_jax.metrics.normalized_entropy import compute_log_loss, compute_normalized_entropy


def compute_exact_metrics(
    logits: np.ndarray,
    labels: np.ndarray,
    label_mask: np.ndarray,
    weight: np.ndarray,
    domain: np.ndarray,
    objective_names: Sequence[str],
    domain_names: Sequence[str],
    group: np.ndarray | None = None,
) -> dict[str, float]:
    """Computes the metrics of `accumulate.finish_metrics` with the exact AUC and, if groups are given, GAUC.

    Args:
      logits: [R, O].
      labels: [R, O] in [0, 1].
      label_mask: [R, O], 1 = observed.
      weight: [R], 0 = padding.
      domain: [R] in [0, G).
      objective_names: O names.
      domain_names: G names.
      group: [R] integers, the group of each row for GAUC; None if the data has no groups.

    Returns:
      Metrics by name, see `metric_names.name_metrics`; `auc_error_bound` is 0. With groups also `gauc`, `gauc_groups`
      and `gauc_groups_left_out` (groups with one class only).
    """

    def compute_slice(g: int | None, o: int) -> dict[str, float]:
        kept = (weight > 0) & (label_mask[:, o] > 0) & (True if g is None else domain == g)
        mass = weight[kept].astype(np.float64) * label_mask[kept, o]
        groups = None if group is None else group[kept]
        return _compute_slice(logits[kept, o], labels[kept, o], mass, groups)

    return name_metrics(compute_slice, objective_names, domain_names)


def _compute_slice(
    logits: np.ndarray, labels: np.ndarray, mass: np.ndarray, group: np.ndarray | None
) -> dict[str, float]:
    # Not `mass.sum()`, whose rounding differs from that of a dot product: with positives only, the rate must be 1.
    observed, negative = float(np.dot(mass, labels)), float(np.dot(mass, 1.0 - labels))
    base_rate = observed / (observed + negative) if observed + negative > 0 else float("nan")
    log_loss = compute_log_loss(labels, logits, mass)
    auc = compute_auc(labels, logits, mass)
    metrics = {
        "auc": auc,
        "auc_error_bound": auc * 0.0,
        "log_loss": log_loss,
        "normalized_entropy": compute_normalized_entropy(log_loss, base_rate),
        "calibration": compute_calibration(float(np.dot(mass, expit(logits.astype(np.float64)))), observed),
        "base_rate": base_rate,
        "rows": float(mass.size),
    }
    if group is not None:
        grouped = compute_grouped_auc(group, labels, logits, mass)
        metrics["gauc"] = grouped.auc
        metrics["gauc_groups"] = float(grouped.groups)
        metrics["gauc_groups_left_out"] = float(grouped.groups_left_out)
    return metrics
