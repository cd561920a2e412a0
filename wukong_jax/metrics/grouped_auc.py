"""Computes GAUC (grouped AUC): the impression-weighted mean of the AUC within each group, such as a user or session."""

from typing import NamedTuple

import numpy as np


class GroupedAuc(NamedTuple):
    """GAUC and the share of the data that it covers."""

    auc: float  # nan if no group has both classes
    groups: int  # groups with both classes, for which AUC is defined
    groups_left_out: int  # groups with one class only
    weight_share: float  # share of the total weight that is in groups with both classes; nan without rows


def compute_grouped_auc(
    groups: np.ndarray, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None
) -> GroupedAuc:
    """Computes the impression-weighted mean of the groups' AUCs; groups with one class are left out and counted.

    A group's impressions are the sum of its rows' weights. The AUC within a group is weighted, too.

    Args:
      groups: [R], any integers.
      labels: [R], 1 or 0 (a fraction y counts as weight y of a positive and 1 - y of a negative row).
      scores: [R], logits or probabilities.
      weights: [R], at least 0; None for equal weights. Rows of weight 0 are ignored.

    Returns:
      The GAUC and its counts; `auc` is nan if a counted score is nan.
    """
    labels, scores, groups = np.asarray(labels), np.asarray(scores), np.asarray(groups)
    weights = np.ones(labels.shape, np.float64) if weights is None else np.asarray(weights, np.float64)
    kept = weights > 0
    labels, scores, groups, weights = labels[kept], scores[kept], groups[kept], weights[kept]
    if not labels.size:
        return GroupedAuc(float("nan"), 0, 0, float("nan"))
    order = np.argsort(scores)
    order = order[np.argsort(groups[order], kind="stable")]  # by group, then score; faster than np.lexsort
    groups, scores, mass = groups[order], scores[order], weights[order]
    positive_mass = mass * labels[order]

    new_group = np.concatenate([[True], groups[1:] != groups[:-1]])
    new_run = new_group | np.concatenate([[True], scores[1:] != scores[:-1]])
    run_starts = np.flatnonzero(new_run)
    positive = np.add.reduceat(positive_mass, run_starts)
    negative = np.add.reduceat(mass - positive_mass, run_starts)

    group_starts = np.flatnonzero(new_group[run_starts])  # positions among runs
    group_of_run = np.cumsum(new_group[run_starts]) - 1
    positives, negatives = np.add.reduceat(positive, group_starts), np.add.reduceat(negative, group_starts)
    below = np.cumsum(negative) - negative  # over all groups; subtracting a group's first value gives its part
    below -= below[group_starts][group_of_run]
    area = np.add.reduceat(positive * (below + 0.5 * negative), group_starts)

    counted = (positives > 0) & (negatives > 0)
    impressions = (positives + negatives)[counted]
    used, total = int(counted.sum()), len(group_starts)
    if not used:
        return GroupedAuc(float("nan"), 0, total, 0.0)
    aucs = area[counted] / (positives[counted] * negatives[counted])
    auc = float("nan") if np.isnan(scores).any() else float(np.average(aucs, weights=impressions))
    return GroupedAuc(auc, used, total - used, float(impressions.sum() / mass.sum()))
