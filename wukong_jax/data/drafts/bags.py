"""Recognises columns with several ids in a value: lists of Parquet, and texts with a separator inside.

Texts with a pipe or semicolon are bags if a part occurs in two different texts. Commas also occur in names, so there
the parts must be fewer than the texts: "a,b", "b,a", "b" are made of two. Blanks are in most names, so there the parts
must be numbers and fewer than the texts, or less than half as many.
"""

import dataclasses

import numpy as np
import polars as pl

from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.profiles import ColumnProfile

_SEPARATORS = ("|", ";", ",", " ")
_LONGEST_PART = 40  # mean characters; longer parts are sentences


@dataclasses.dataclass(frozen=True)
class Bag:
    """How the values of a bag are made."""

    separator: str
    parts: frozenset[str]  # distinct parts in the sample
    max_length: int
    longest: int  # in the sample
    sure: bool


def find_bag(sample: pl.Series, limits: Limits) -> Bag | None:
    """Finds out whether a column holds bags.

    Args:
      sample: [n] texts or lists; null = missing.
      limits: limits of the rules.

    Returns:
      The bag; None if values are single.
    """
    given = sample.drop_nulls()
    if isinstance(sample.dtype, pl.List):
        lists = given.cast(pl.List(pl.String))
        return _describe("|", lists, limits, sure=True)
    if not len(given) or sample.dtype != pl.String:
        return None
    for separator in _SEPARATORS:
        inside = given.str.contains(separator, literal=True)
        if not inside.any() or (separator == "," and bool(given.str.contains(r"^-?\d+,\d+$").all())):
            continue
        if bool(given.str.contains(r"^[\[{(]").all()):
            return None  # brackets would become part of the ids
        used = (
            ", "
            if separator == "," and bool(given.filter(inside).str.contains(", ", literal=True).all())
            else separator
        )
        bag = _describe(used, given.str.split(used), limits, sure=used != " ")
        if _is_bag(bag, given.unique(), float(inside.mean() or 0)):  # type: ignore[arg-type]
            return bag
    return None


def parts_of(profile: ColumnProfile, separator: str) -> set[str]:
    """Returns the distinct ids of a bag column: of texts, those in the row sample."""
    if profile.type == "list":
        return set(profile.values["value"])
    return set(profile.sample.drop_nulls().str.split(separator).explode().unique()) - {""}


def _is_bag(bag: Bag, distinct: pl.Series, share: float) -> bool:
    parts, texts = bag.parts, len(distinct)
    if not parts or sum(map(len, parts)) / len(parts) > _LONGEST_PART:
        return False
    if bag.separator in ("|", ";"):
        several = distinct.str.split(bag.separator).list.unique().explode()
        return len(several.filter(several != "")) > len(parts)
    if bag.separator != " ":
        return len(parts) < texts
    numbers = all(part.isdigit() for part in parts)
    return (numbers and len(parts) < texts) or (share > 0.5 and 2 * len(parts) <= texts)


def _describe(separator: str, lists: pl.Series, limits: Limits, *, sure: bool) -> Bag:
    parts = lists.explode(empty_as_null=False, keep_nulls=False)
    used = parts.filter(parts.is_not_null() & (parts != ""))
    lengths = lists.list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != ""))).list.len()
    lengths = lengths.filter(lengths > 0)
    longest = int(lengths.max() or 1)  # type: ignore[arg-type]
    high = int(np.ceil(lengths.quantile(limits.bag_quantile, "higher") or 1)) if len(lengths) else 1
    return Bag(separator, frozenset(used.unique()), min(high, limits.longest_bag), longest, sure)
