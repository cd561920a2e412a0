"""GAUC: the AUC within each group (a user, a session), averaged over groups by their impressions."""

from typing import NamedTuple

import numpy as np


class GroupedAuc(NamedTuple):
    """GAUC, and how much of the data it speaks of."""

    auc: float  # nan where no group holds both classes
    groups: int  # groups that hold both classes, and so have an AUC
    groups_left_out: int  # groups with one class only
    weight_share: float  # of all rows' weight, the share in groups that count; nan without rows


def compute_grouped_auc(
    groups: np.ndarray, labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None
) -> GroupedAuc:
    """The impression-weighted mean of the groups' AUC; groups with one class are left out and counted.

    A group's impressions are the sum of its rows' weights, and the AUC within it is weighted too.

    Args:
      groups: [R], any integers.
      labels: [R], 1 or 0 (a fraction counts on both sides).
      scores: [R], logits or probabilities.
      weights: [R], at least 0; None for 1 each. Rows of weight 0 count nothing and make no group.

    Returns:
      The GAUC and its counts; `auc` is nan where a counted score is not a number.
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
    below = np.cumsum(negative) - negative  # over all groups; a group's own is the difference to its first run
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
