"""Decides how the values of a label column become 0 and 1; asks where that is not plain."""

import dataclasses

import numpy as np
import polars as pl

from wukong_jax.data.drafts.profiles import ColumnProfile
from wukong_jax.errors import UserError
from wukong_jax.schema import LabelColumn

_YES = ("1", "yes", "y", "true", "t", "click", "clicked", "positive", "pos", "buy", "bought", "+1")
_NO = ("0", "no", "n", "false", "f", "noclick", "no click", "not clicked", "negative", "neg", "none", "-1", "")
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class LabelHints:
    """What the user says of a label."""

    positive: tuple[str, ...] = ()  # texts that mean 1
    threshold: float | None = None  # numbers from this one on mean 1


@dataclasses.dataclass(frozen=True)
class DraftedLabel:
    """A label and its values in the row sample."""

    entry: LabelColumn
    values: np.ndarray  # [n] bool, of the sample
    given: np.ndarray  # [n] bool, rows that have the label
    reason: str


def draft_label(profile: ColumnProfile, hints: LabelHints) -> DraftedLabel:
    """Decides which values of a label column mean 1.

    Args:
      profile: the column; marks count as missing.
      hints: what the user says.

    Returns:
      The label.

    Raises:
      UserError: it is not plain which values mean 1, or all values mean the same.
    """
    name, values = profile.name, profile.values
    if profile.given == 0:
        raise UserError(f"label {name!r}: no row has a value; name another column")
    if profile.type in ("list", "date", "other"):
        raise UserError(f"label {name!r}: a column of type {profile.type} is no label; name a column of 0 and 1")
    if profile.distinct == 1:
        raise UserError(
            f"label {name!r} = {values['value'][0]!r} in all {profile.given:,} rows; a label needs rows of both kinds"
        )
    if hints.positive:
        return _by_texts(profile, hints.positive)
    if hints.threshold is not None:
        return _by_threshold(profile, hints.threshold)
    numbers = profile.numbers
    if numbers is not None and numbers.fractions == 0 and numbers.minimum >= -1 and numbers.maximum == 1:
        if profile.values["value"].cast(pl.Float64, strict=False).n_unique() == 2:
            return _take(profile, LabelColumn(name), _numbers(profile) == 1, "1 and 0")
        raise UserError(f"label {name!r} has -1, 0 and 1; say what counts as 1: --threshold={name}=1")
    if numbers is not None:
        raise UserError(_ask_threshold(profile))
    positive = [text for text in values["value"] if text.lower() in _YES]
    others = [text for text in values["value"] if text not in positive]
    if positive and others and all(text.lower() in _NO for text in others):
        return _by_texts(profile, tuple(positive))
    shown = sorted(zip(values["rows"], values["value"], strict=True), reverse=True)[:_SHOWN]
    texts = ", ".join(f"{text!r} ({rows / profile.rows:.1%})" for rows, text in shown)
    more = " and others" if profile.distinct > _SHOWN else ""
    raise UserError(f"label {name!r} has {texts}{more}; say which text means 1: --positive={name}={shown[-1][1]}")


def _by_texts(profile: ColumnProfile, positive: tuple[str, ...]) -> DraftedLabel:
    known = profile.values["value"].to_list()
    for text in positive:
        if text not in known and profile.exact:
            raise UserError(
                f"--positive={profile.name}={text}: no such value; the column has "
                f"{', '.join(map(repr, known[:_SHOWN]))}"
            )
    if set(known) <= set(positive):
        raise UserError(f"--positive={profile.name}: covers all values, so that every label is 1; leave one out")
    is_one = profile.sample.cast(pl.String).is_in(list(positive)).fill_null(False).to_numpy()
    quoted = ", ".join(map(repr, positive))
    return _take(profile, LabelColumn(profile.name, positive=positive), is_one, f"1 where it is {quoted}")


def _by_threshold(profile: ColumnProfile, threshold: float) -> DraftedLabel:
    if profile.numbers is None:
        raise UserError(
            f"--threshold={profile.name}={threshold:g}: the column has texts; use --positive={profile.name}=TEXT"
        )
    if not profile.numbers.minimum < threshold <= profile.numbers.maximum:
        raise UserError(
            f"--threshold={profile.name}={threshold:g}: above {profile.numbers.minimum:g} and at most "
            f"{profile.numbers.maximum:g}, the range of its values, or every label is the same"
        )
    entry = LabelColumn(profile.name, threshold=threshold)
    return _take(profile, entry, _numbers(profile) >= threshold, f"1 from {threshold:g} on")


def _take(profile: ColumnProfile, entry: LabelColumn, is_one: np.ndarray, words: str) -> DraftedLabel:
    given = profile.sample.is_not_null().to_numpy()
    share = float(is_one[given].mean()) if given.any() else 0.0
    return DraftedLabel(entry, is_one & given, given, f"{words}; {share:.2%} of the rows are 1")


def _numbers(profile: ColumnProfile) -> np.ndarray:
    return profile.sample.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()


def _ask_threshold(profile: ColumnProfile) -> str:
    assert profile.numbers is not None
    steps = np.unique(_numbers(profile)[profile.sample.is_not_null().to_numpy()])
    numbers = _numbers(profile)
    shares = [float((numbers >= step).mean()) for step in steps[1:200]]
    best = int(np.argmin(np.abs(np.array(shares) - 0.5))) if shares else 0
    step = steps[1:][best] if shares else profile.numbers.maximum
    return (
        f"label {profile.name!r} has {profile.distinct:,} values from {profile.numbers.minimum:g} to "
        f"{profile.numbers.maximum:g}; say from which on it counts as 1, such as --threshold={profile.name}={step:g} "
        f"({shares[best] if shares else 1.0:.0%} of the rows)"
    )
