"""Measures how well a single column tells the label, to find columns that are the label or known only after it.

Each value gets the label's rate among the other half of the rows (in the sample), and the AUC of these rates is
measured, so that values which occur once tell nothing. Numbers of many values are cut into bins of equal size.
"""

import numpy as np
import polars as pl

from wukong_jax.data.raw.stable_hash import hash_uniform

_HALF_SEED = 0xA1F
_BINS = 256
_PRIOR_ROWS = 1.0  # rows of the mean rate that are added to each value
_LEAST = 5  # rows of each label in each half below which nothing is said


def value_codes(values: pl.Series, *, number: bool) -> np.ndarray:
    """Numbers the values of a column; a missing value is a value like others.

    Args:
      values: [n] values.
      number: whether they are numbers, of which many are cut into bins.

    Returns:
      [n] int64 codes from 0 on.
    """
    if isinstance(values.dtype, pl.List):
        values = values.list.eval(pl.element().cast(pl.String)).list.join("|")
    if not number:
        return values.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    numbers = values.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    given = numbers[~np.isnan(numbers)]
    steps = np.unique(given)
    if len(steps) > _BINS:
        steps = np.unique(np.quantile(given, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return np.where(np.isnan(numbers), len(steps) + 1, np.searchsorted(steps, numbers, side="right"))


def single_column_auc(codes: np.ndarray, labels: np.ndarray) -> float | None:
    """Returns the AUC of a label by one column, each half of the rows scored by the rates of the other.

    Args:
      codes: [n] codes of the values.
      labels: [n] bool.

    Returns:
      The mean AUC of the halves; None if there are too few rows to say.
    """
    half = hash_uniform(np.arange(len(codes)), _HALF_SEED) < 0.5
    found = [_score(codes[learn], labels[learn], codes[~learn], labels[~learn]) for learn in (half, ~half)]
    known = [auc for auc in found if auc is not None]
    return float(np.mean(known)) if len(known) == 2 else None


def telling_value(codes: np.ndarray, labels: np.ndarray) -> tuple[int, float] | None:
    """Returns the code whose rows all have label 1 and hold most of these labels, and its share of them.

    Only a code with at least 50 rows counts, and only where fewer than 90 % of all rows have label 1.
    """
    if not len(codes) or not 0 < labels.mean() < 0.9:
        return None
    rows = np.bincount(codes)
    ones = np.bincount(codes, labels)
    ones = np.where((rows >= 50) & (ones >= 0.999 * rows), ones, 0)
    best = int(np.argmax(ones))
    return (best, float(ones[best] / labels.sum())) if ones[best] else None


def _score(learn: np.ndarray, known: np.ndarray, codes: np.ndarray, labels: np.ndarray) -> float | None:
    if min(known.sum(), (~known).sum(), labels.sum(), (~labels).sum()) < _LEAST:
        return None
    size = int(max(learn.max(), codes.max())) + 1
    rows, ones = np.bincount(learn, minlength=size), np.bincount(learn, known, minlength=size)
    rates = (ones + _PRIOR_ROWS * known.mean()) / (rows + _PRIOR_ROWS)
    return _auc(rates[codes], labels)


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ranks = pl.Series(scores).rank("average").to_numpy()
    ones = int(labels.sum())
    return float((ranks[labels].sum() - ones * (ones + 1) / 2) / (ones * (len(labels) - ones)))
