"""Decides what a column of features is, from its profile alone; see `decide_column` for the order of the rules."""

import dataclasses
import math

import polars as pl

from wukong_jax.data.drafts.amounts import draft_number, sample_numbers, tell_codes
from wukong_jax.data.drafts.bags import Bag, find_bag
from wukong_jax.data.drafts.column_names import names_a_sequence, names_a_thing, names_a_time, names_row_weights
from wukong_jax.data.drafts.decisions import Decision, to_keep, to_leave_out
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.profiles import ColumnProfile
from wukong_jax.schema import CategoricalColumn

_WRITTEN_NUMBER = r"^[$€£]?\s?-?\d{1,3}([,.' ]?\d{3})*([.,]\d+)?\s?[%€$£]?$"
_NEARLY_ALL = 0.95
_FEWEST_DAYS = 5  # fewer whole numbers may look like days by chance


def decide_column(profile: ColumnProfile, limits: Limits, *, keep: bool = False) -> Decision:
    """Decides what a feature column is.

    In this order: no value or one value: left out. Types that no schema reads: left out. Dates: left out, as only one
    column is the time. One value a row: left out, unless amounts. Numbers with a fraction: amounts. Whole numbers: a
    category if few values, else codes or amounts (`amounts.tell_codes`). Texts: bags (`bags.find_bag`), free text (left
    out), else ids.

    Args:
      profile: the column; marks count as missing.
      limits: limits of the rules.
      keep: whether the user wants the column, so that only what cannot be read is left out.

    Returns:
      The decision.
    """
    unreadable = _unreadable(profile)
    if unreadable:
        return Decision(profile, "left out", unreadable)
    if not keep and (useless := _useless(profile)) is not None:
        return useless
    bag = find_bag(profile.sample, limits) if profile.numbers is None or profile.type == "list" else None
    if bag is not None:
        return _decide_bag(profile, bag, limits)
    if not keep and (lonely := _one_a_row(profile, limits)) is not None:
        return lonely
    if profile.numbers is not None:
        return _decide_number(profile, limits)
    return _decide_text(profile, limits, keep=keep)


def draft_ids(profile: ColumnProfile, limits: Limits, **options: object) -> CategoricalColumn:
    """Drafts the encoding of ids: a vocabulary, or hashing if they are many.

    Args:
      profile: the column.
      limits: limits of the rules.
      **options: more fields of the column, such as the separator of a bag.

    Returns:
      The column. Above `hash_above` values, it is hashed into the power of two next above twice their number.
    """
    if profile.distinct > limits.hash_above:
        rows = 1 << math.ceil(math.log2(2 * profile.distinct))
        return CategoricalColumn(profile.name, encoding="hash", rows=rows, **options)  # type: ignore[arg-type]
    least = 2 if profile.distinct > limits.rare_above else 1
    return CategoricalColumn(profile.name, min_count=least, **options)  # type: ignore[arg-type]


def _unreadable(profile: ColumnProfile) -> str:
    if profile.type == "other":
        return "a nested or changing type, which no schema reads"
    if profile.given == 0:
        return "no value in any row"
    if not profile.name:
        return "it has no name; an index that was written with the rows?"
    if profile.type == "list" and profile.numbers is not None and profile.numbers.fractions:
        return "vectors of numbers, which no schema reads"
    if profile.type == "list" and profile.inexact:
        return "floats too large to be exact ids"
    return ""


def _useless(profile: ColumnProfile) -> Decision | None:
    name = profile.name
    if profile.type != "list" and profile.distinct == 1 and profile.empty == 0:
        return Decision(profile, "left out", f"the same value in all rows, {profile.values['value'][0]!r}")
    if profile.date_forms and not may_be_numbers(profile):
        return Decision(profile, "left out", f"dates ({profile.date_forms[0]}), and not the time of the row")
    if names_row_weights(name) and profile.numbers is not None and profile.numbers.minimum >= 0:
        other = f"--weight={name} uses them, {to_keep(name)} makes them a feature"
        return Decision(profile, "left out", "row weights by its name", other)
    return None


def may_be_numbers(profile: ColumnProfile) -> bool:
    """Returns whether dates may as well be numbers: whole numbers in the range of seconds since 1970, for example."""
    if profile.numbers is None or names_a_time(profile.name):
        return False
    return profile.date_forms[0].unit is not None or profile.distinct < _FEWEST_DAYS


def _one_a_row(profile: ColumnProfile, limits: Limits) -> Decision | None:
    facts = profile.numbers
    if profile.given < limits.one_a_row_rows or profile.distinct < limits.one_a_row * profile.given:
        return None
    if facts is not None and facts.fractions:
        return None
    words = f"{'' if profile.exact else 'about '}one value a row, which no new row has"
    if facts is not None and not names_a_thing(profile.name) and not facts.leading_zeros:
        numbers = sample_numbers(profile)
        if not bool((numbers[1:] > numbers[:-1]).all()):
            return None
        words = "a row counter"
    return Decision(profile, "left out", words)


def _decide_number(profile: ColumnProfile, limits: Limits) -> Decision:
    facts = profile.numbers
    assert facts is not None
    if profile.distinct == 1:
        return Decision(profile, "category", "one value, or none", entry=draft_ids(profile, limits))
    zero_or_one = facts.fractions == 0 and (facts.minimum, facts.maximum) == (0, 1)
    if zero_or_one and profile.empty == 0:
        return Decision(profile, "number", "0 and 1", entry=draft_number(profile, limits)[0])
    if facts.fractions or profile.inexact:
        entry, why = draft_number(profile, limits)
        what = "numbers with a fraction" if facts.fractions else "floats too large to be exact ids"
        return Decision(profile, "number", f"{what}; {why}", entry=entry)
    few = profile.distinct <= 2 or (
        profile.distinct <= limits.few_integers and profile.given >= limits.rows_per_few * profile.distinct
    )
    if few:
        return Decision(profile, "category", "whole numbers of few values", entry=draft_ids(profile, limits))
    codes, why, sure = tell_codes(profile)
    if codes:
        other = "" if sure else 'if they are amounts, move the column to "dense" with a transform'
        return _ids(profile, limits, why, other)
    entry, transform = draft_number(profile, limits)
    other = "" if sure else 'if they are codes, move the column to "categorical"'
    return Decision(profile, "number", f"{why}; {transform}", other, entry)


def _decide_bag(profile: ColumnProfile, bag: Bag, limits: Limits) -> Decision:
    parts = len(bag.parts) if profile.type != "list" else profile.distinct
    counted = profile if profile.type == "list" else dataclasses.replace(profile, distinct=parts)
    entry = draft_ids(counted, limits, separator=bag.separator, max_length=bag.max_length)
    cut = f", longest {bag.longest}" if bag.longest > bag.max_length else ""
    where = "lists" if profile.type == "list" else f"divided by {bag.separator!r}"
    reason = f"{where}, {parts:,} different ids, {bag.max_length} slots for 99 % of the rows{cut}"
    ordered = names_a_sequence(profile.name)
    unsure = (
        "" if bag.sure else f'if these are names with blanks, remove "separator" and "max_length" of {profile.name}'
    )
    return Decision(counted, "sequence" if ordered else "bag", reason, unsure, entry)


def _decide_text(profile: ColumnProfile, limits: Limits, *, keep: bool) -> Decision:
    texts = profile.sample.drop_nulls().cast(pl.String)
    length = float(texts.str.len_chars().mean() or 0)  # type: ignore[arg-type]
    if not keep and length >= limits.free_text and 2 * profile.distinct > profile.given:
        return Decision(profile, "left out", f"free text, {length:.0f} characters on average")
    if not keep and bool(texts.str.contains(r"^[\[{(].*[\]})]$").all()):
        other = f"write them as 1|2|3 to use them; {to_keep(profile.name)} takes the whole text as an id"
        return Decision(profile, "left out", "lists in brackets", other)
    written = float(texts.str.contains(_WRITTEN_NUMBER).mean() or 0)  # type: ignore[arg-type]
    unsure = ""
    if written >= _NEARLY_ALL:
        plain = texts.cast(pl.Float64, strict=False).is_not_null()
        odd = texts.filter(~plain)
        example = odd[0] if len(odd) else texts[0]
        unsure = f"looks like numbers, but {example!r} is none; mend such values, and draft again"
    return _ids(profile, limits, "texts", unsure)


def _ids(profile: ColumnProfile, limits: Limits, why: str, unsure: str) -> Decision:
    entry = draft_ids(profile, limits)
    if entry.encoding == "hash":
        why += f"; hashed into {entry.rows:,} rows, for more than {limits.hash_above:,} values"
    elif entry.min_count > 1:
        why += "; values seen once share a row"
    if not unsure and profile.distinct > 0.5 * profile.given:
        unsure = f"few rows share a value; if it says nothing of other rows, {to_leave_out(profile.name)}"
    return Decision(profile, "category", why, unsure, entry)
