"""Tells codes from amounts among whole numbers, and chooses the transform of amounts."""

import numpy as np

from wukong_jax.data.drafts.column_names import names_a_thing, names_an_amount
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.profiles import ColumnProfile
from wukong_jax.schema import DenseColumn

_LOWEST_FIFTH = 0.2
_SMOOTH = 0.5
_FEWEST_STEPS = 20
_RARE_NEGATIVE = 0.001


def tell_codes(profile: ColumnProfile) -> tuple[bool, str, bool]:
    """Tells whether whole numbers are codes, such as the number of an item, or amounts.

    The first rule that applies decides: leading zeros are codes; the last word of the name says; negative numbers are
    amounts; amounts pile up at their low end (the median lies in the lowest fifth of the range), or have a smooth
    histogram (the counts of neighbouring values correlate); otherwise numbers that repeat are codes, others amounts.

    Args:
      profile: a column of whole numbers, with many values.

    Returns:
      Whether they are codes, why, and whether this is sure.
    """
    facts = profile.numbers
    assert facts is not None
    if facts.leading_zeros:
        return True, "whole numbers with leading zeros", True
    if names_an_amount(profile.name):
        return False, "an amount by its name", True
    if names_a_thing(profile.name):
        return True, "ids by its name", True
    if facts.negatives and facts.minimum != -1:
        return False, "whole numbers, some negative", True
    values = sample_numbers(profile)
    spread = facts.maximum - facts.minimum
    if np.median(values) - facts.minimum < _LOWEST_FIFTH * spread:
        return False, "whole numbers that pile up at the low end", True
    if _smoothness(values) > _SMOOTH:
        return False, "whole numbers with a smooth histogram", True
    if profile.rows >= 10 * profile.distinct:
        return True, "whole numbers that repeat, with a rough histogram", False
    return False, "whole numbers of many values", False


def draft_number(profile: ColumnProfile, limits: Limits) -> tuple[DenseColumn, str]:
    """Chooses the transform of a column of numbers, and what replaces a missing one.

    Numbers that are only 0 and 1 stay. Numbers from 0 on with a long tail (skewness above 1, which the logarithm makes
    smaller) become log1p, also if at most one in a thousand is negative or small negative ones such as -1 mean "none";
    other numbers are standardised. A missing number becomes 0 before log1p, else the median.

    Args:
      profile: a column of numbers.
      limits: limits of the rules.

    Returns:
      The dense column, and the reason for its transform.
    """
    facts = profile.numbers
    assert facts is not None
    if facts.fractions == 0 and (facts.minimum, facts.maximum) == (0, 1):
        return DenseColumn(profile.name), "0 and 1"
    values = sample_numbers(profile)
    high = float(np.quantile(values, 0.99)) if len(values) else 0.0
    mean_none = facts.fractions == 0 and facts.minimum >= -3 and high >= 30
    if mean_none or facts.negatives <= _RARE_NEGATIVE * facts.values:
        before, after = _skewness(values), _skewness(np.log1p(np.maximum(values, 0)))
        if before > limits.heavy_skew and abs(after) < before:
            none = "" if facts.minimum >= 0 else f", {facts.negatives:,} negative numbers become 0"
            return DenseColumn(profile.name, transform="log1p"), f"a long tail (skewness {before:.1f}){none}"
    middle = float(np.median(values)) if profile.empty and len(values) else 0.0
    middle = float(f"{middle:.6g}")
    reason = "no long tail" if facts.minimum >= 0 else "some are negative"
    return DenseColumn(profile.name, transform="standardise", missing_value=middle), reason


def sample_numbers(profile: ColumnProfile) -> np.ndarray:
    """Returns the numbers of the row sample that are given, float64."""
    return profile.sample.drop_nulls().cast(float).to_numpy()


def _skewness(values: np.ndarray) -> float:
    deviation = values.std() if len(values) else 0.0
    if not np.isfinite(deviation) or deviation <= 1e-12 * (1 + np.abs(values).max(initial=0)):
        return 0.0
    return float((((values - values.mean()) / deviation) ** 3).mean())


def _smoothness(values: np.ndarray) -> float:
    """Correlation of the log counts of neighbouring values, in bins of several values if the values are many."""
    steps = np.unique(values)
    if len(steps) < _FEWEST_STEPS:
        return 0.0
    low, span = steps[0], steps[-1] - steps[0] + 1
    bins = min(len(steps), max(_FEWEST_STEPS, len(values) // 50))
    width = np.ceil(span / bins)  # whole, so that all bins hold equally many numbers
    counts = np.log1p(np.bincount(((values - low) // width).astype(np.int64)))
    if counts.std() == 0:
        return 0.0
    return float(np.corrcoef(counts[:-1], counts[1:])[0, 1])
