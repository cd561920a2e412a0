"""Computes Bayes metrics, the scores of a model that predicts the true probabilities, with standard errors."""

import dataclasses

import numpy as np
from scipy.special import expit


@dataclasses.dataclass(frozen=True)
class BayesMetrics:
    """Metrics of the true probabilities; standard errors are for a sample of `rows` rows."""

    rows: int
    base_rate: float
    log_loss: float  # nats
    log_loss_standard_error: float
    auc: float
    auc_standard_error: float
    normalized_entropy: float  # log loss divided by the entropy of the base rate


def compute_expected_metrics(logit: np.ndarray) -> BayesMetrics:
    """Computes the metrics' expectation over random labels, averaged over a sample of rows.

    Args:
      logit: [B] true logits of rows drawn from the planted distribution.

    Returns:
      The metrics, including the expected log loss (the mean entropy of the labels) and the AUC of the probabilities for
      labels drawn from them. They have no noise from drawing labels.
    """
    logit = logit.astype(np.float64)
    probability = expit(logit)
    losses = np.logaddexp(0, -logit) * probability + np.logaddexp(0, logit) * (1 - probability)
    return _summarise(logit, probability, losses)


def compute_bayes_metrics(logit: np.ndarray, labels: np.ndarray) -> BayesMetrics:
    """Computes the metrics of the true probabilities on the given rows and labels.

    Args:
      logit: [B] true logits.
      labels: [B] 0 or 1, at least one of each.

    Returns:
      The metrics; normalized entropy uses the base rate of the given labels.
    """
    logit = logit.astype(np.float64)
    labels = labels.astype(np.float64)
    losses = np.logaddexp(0, logit) - labels * logit
    return _summarise(logit, labels, losses)


def compute_weighted_auc(score: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Computes the AUC if each row is positive with a given probability, and its standard error.

    Ties count one half, and a row is not compared with itself. The standard error is that of a U-statistic, computed
    from each row's contribution (first-order projection).

    Args:
      score: [B] scores.
      positive: [B] probabilities from 0 to 1; labels are the special case of 0 and 1.

    Returns:
      (AUC, standard error).
    """
    order = np.argsort(score, kind="stable")
    score, p = score[order], positive[order].astype(np.float64)
    group = np.concatenate([[0], np.cumsum(score[1:] != score[:-1])])
    tied_positive, tied_negative = np.bincount(group, p), np.bincount(group, 1 - p)
    below = (np.cumsum(tied_negative) - tied_negative / 2)[group] - (1 - p) / 2
    above = (p.sum() - np.cumsum(tied_positive) + tied_positive / 2)[group] - p / 2
    rows, rate = len(p), p.mean()
    pairs = p.sum() * (1 - p).sum() - (p * (1 - p)).sum()
    auc = float((p * below).sum() / pairs)
    influence = (p * below + (1 - p) * above) / rows - auc * (p * (1 - rate) + (1 - p) * rate)
    return auc, float(influence.std() / (rate * (1 - rate)) / np.sqrt(rows))


def _summarise(logit: np.ndarray, positive: np.ndarray, losses: np.ndarray) -> BayesMetrics:
    rate, log_loss = float(positive.mean()), float(losses.mean())
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    auc, auc_error = compute_weighted_auc(logit, positive)
    return BayesMetrics(
        rows=len(logit),
        base_rate=rate,
        log_loss=log_loss,
        log_loss_standard_error=float(losses.std() / np.sqrt(len(losses))),
        auc=auc,
        auc_standard_error=auc_error,
        normalized_entropy=float(log_loss / entropy),
    )
