"""Encodes single raw columns as arrays: numbers, labels, groups and ids; `timestamps` encodes those.

Values are read in their canonical form (see `canonical_values`). What cannot be read is reported as a `Problem`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import polars as pl

from wukong_jax.data.raw.canonical_values import (
    canonical_label_text,
    canonicalise_texts,
    join_texts,
    may_change,
    parse_integers,
    parse_numbers,
    to_texts,
)
from wukong_jax.data.raw.eight_byte_texts import may_change_words, read_words
from wukong_jax.data.raw.numeric_transforms import FLOAT32_TINY, apply_transform, to_float32
from wukong_jax.data.raw.problems import Problem, add_problem
from wukong_jax.data.raw.stable_hash import hash_joined, hash_words
from wukong_jax.schema import FLOAT32_MAX, CategoricalColumn, DenseColumn, LabelColumn

_EXACT = "an exact id; a float is one up to 2^53 only, so store it as an integer or a text"
_FLOAT32 = f"a number that float32 holds, up to {FLOAT32_MAX:.6g}"
_LARGEST_STEP = 2.0**53


class Coder(Protocol):
    """Maps texts to codes or ids; see `vocabulary`."""

    def encode(self, texts: pl.Series) -> np.ndarray:
        """Returns the code of each text, [n] int32; null counts as the empty text."""


def encode_dense(column: DenseColumn, values: pl.Series, problems: list[Problem]) -> np.ndarray:
    """Encodes a dense column and applies its transform, except standardise, whose mean is not known yet.

    Args:
      column: a dense column of the schema.
      values: [n] raw values.
      problems: list to which values that cannot be read are added.

    Returns:
      [n] float32; with standardise float64 numbers, which float32 holds, too.
    """
    numbers, bad = parse_numbers(values)
    add_problem(problems, column.name, bad, values, "a number")
    numbers = np.where(np.isnan(numbers), column.missing_value, numbers)
    numbers = apply_transform(numbers, column.transform, column.boundaries)
    stored, beyond = to_float32(numbers)
    add_problem(problems, column.name, beyond, values, _FLOAT32)
    if column.transform != "standardise":
        return stored
    return np.where(beyond, 0.0, numbers) if beyond.any() else numbers


def encode_label(
    label: LabelColumn, values: pl.Series, problems: list[Problem], seen: set[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes the label of one objective.

    Args:
      label: a label column of the schema.
      values: [n] raw values; a missing value masks the objective.
      problems: list to which values that cannot be read are added.
      seen: set to which the texts of `positive` that occur are added.

    Returns:
      Labels and mask, each [n] float32 of 0 and 1; the label is 0 where it is masked.
    """
    if label.positive:
        texts, inexact = to_texts(values)
        texts = canonicalise_texts(texts)
        add_problem(problems, label.source_column, inexact, values, _EXACT)
        forms = {text: _label_forms(text) for text in label.positive}
        for text in label.positive if seen is not None else ():
            if text not in seen and texts.is_in(forms[text]).any():  # type: ignore[operator]
                seen.add(text)  # type: ignore[union-attr]
        positive = texts.is_in(sorted({form for several in forms.values() for form in several}))
        observed = texts.is_not_null().to_numpy()
        return positive.fill_null(False).to_numpy().astype(np.float32), observed.astype(np.float32)
    numbers, bad = parse_numbers(values)
    observed = ~np.isnan(numbers)
    if label.threshold is not None:
        expected, labels = "a number", numbers >= label.threshold
    else:
        expected, labels = "0 or 1 (or -1 for 0), or give the label `positive` or `threshold`", numbers == 1
        bad = bad | (observed & (np.abs(numbers) != 1) & (numbers != 0))
    add_problem(problems, label.source_column, bad, values, expected)
    return labels.astype(np.float32), observed.astype(np.float32)


def _label_forms(text: str) -> list[str]:
    """Returns the canonical texts that equal a text of `positive`."""
    form = canonical_label_text(text)
    return {"1": ["1", "true"], "0": ["0", "false"]}.get(form, [form])


def encode_weight(name: str, values: pl.Series, problems: list[Problem]) -> np.ndarray:
    """Encodes row weights as [n] float32, at least 0; a missing weight is a problem.

    A positive weight below the smallest normal float32 is a problem, too, since devices take such numbers for 0.
    """
    numbers, _ = parse_numbers(values)
    bad = ~(numbers >= 0)
    add_problem(problems, name, bad, values, "a number of 0 or above")
    numbers = np.where(bad, 0.0, numbers)
    stored, beyond = to_float32(numbers)
    beyond = beyond | ((numbers > 0) & (numbers < FLOAT32_TINY))
    add_problem(problems, name, beyond, values, f"0, or a weight from {FLOAT32_TINY:.6g} to {FLOAT32_MAX:.6g}")
    return stored


def encode_domain(name: str, values: pl.Series, coder: Coder, problems: list[Problem]) -> np.ndarray:
    """Encodes domains as the coder's codes, [n] int32; a missing domain is the empty text."""
    texts, inexact = to_texts(values)
    add_problem(problems, name, inexact, values, _EXACT)
    return coder.encode(texts)


def encode_group(name: str, values: pl.Series, problems: list[Problem]) -> np.ndarray:
    """Encodes groups by a 31-bit hash of their text, which needs no stored state.

    Of n groups, a share of about n / 2^31 collides with another group: 0.05 % of a million.

    Args:
      name: the column's name.
      values: [n] raw values; rows with a missing value form one group.
      problems: list to which values that cannot be read are added.

    Returns:
      [n] int32, at least 0.
    """
    texts, inexact = to_texts(values)
    add_problem(problems, name, inexact, values, _EXACT)
    return (_hash_values(texts, salt=0) >> np.uint64(33)).astype(np.int32)


def _hash_values(texts: pl.Series, salt: int) -> np.ndarray:
    """Hashes the canonical forms of texts, [n] String, as [n] uint64; null counts as the empty text."""
    words = read_words(texts)
    if words is None or may_change_words(words.values):
        return _hash_any(texts, salt)
    hashes = hash_words(words.values, salt)
    if texts.null_count():
        hashes[words.values == 0] = _hash_any(pl.Series([""]), salt)[0]
    if len(words.others):
        hashes[words.others] = _hash_any(texts.gather(words.others), salt)
    return hashes


def _hash_any(texts: pl.Series, salt: int) -> np.ndarray:
    texts = texts.fill_null("") if texts.null_count() else texts
    joined = join_texts(texts)
    if may_change(joined):
        texts = canonicalise_texts(texts)
        joined = join_texts(texts)
    return hash_joined(texts, joined, salt)


def join_columns(frame: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """Joins the texts of several raw columns with a space, [n]; null where any of them is missing."""
    texts = [canonicalise_texts(to_texts(frame[name])[0]).alias(name) for name in names]
    return pl.DataFrame(texts).select(pl.concat_str(names, separator=" ")).to_series()


def encode_single(
    column: CategoricalColumn, owner: CategoricalColumn, values: pl.Series, coder: Coder | None, problems: list[Problem]
) -> np.ndarray:
    """Encodes a categorical column with one value per row.

    Args:
      column: a categorical column of the schema.
      owner: the column whose vocabulary it uses, itself or another.
      values: [n] raw values.
      coder: the vocabulary's coder; None for the encodings hash and identity.
      problems: list to which values that cannot be read are added.

    Returns:
      [n] int32, the coder's codes or final ids.
    """
    raw = values
    if column.transform != "none":
        numbers, bad = parse_numbers(values)
        add_problem(problems, column.name, bad, raw, "a number")
        missing = np.isnan(numbers)
        steps = apply_transform(np.where(missing, 0.0, numbers), column.transform, column.boundaries)
        beyond = np.abs(steps) >= _LARGEST_STEP
        add_problem(problems, column.name, beyond, raw, "a number whose transform is an exact integer, below 2^53")
        values = pl.Series(np.where(beyond, 0.0, steps).astype(np.int64)).set(pl.Series(missing), None)
    ids, unread = _encode_values(owner, values, coder)
    add_problem(problems, column.name, unread, raw, "an integer" if _is_identity(owner) else _EXACT)
    return ids


def encode_bag(
    column: CategoricalColumn,
    owner: CategoricalColumn,
    values: pl.Series,
    coder: Coder | None,
    latest: bool,
    problems: list[Problem],
) -> tuple[np.ndarray, int]:
    """Encodes a bag or sequence: empty parts are dropped, values fill the first slots, and the other slots are -1.

    Args:
      column: a bag or sequence column of the schema.
      owner: the column whose vocabulary it uses, itself or another.
      values: [n] texts with separators, or lists.
      coder: the vocabulary's coder; None for the encodings hash and identity.
      latest: True keeps the last `max_length` values (a sequence), False the first (a bag); the order is unchanged.
      problems: list to which values that cannot be read are added.

    Returns:
      [max_length, n] int32 codes or ids, -1 = no value; and the number of values dropped for lack of a slot.
    """
    rows, length = len(values), column.max_length
    lists = _split_bags(values, column.separator or "")
    parts = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = lists.explode(empty_as_null=False, keep_nulls=False)
    used = _is_used(flat)
    row = np.repeat(np.arange(rows), parts)[used]
    counts = np.bincount(row, minlength=rows)
    position = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
    excess = np.maximum(counts - length, 0)
    if latest:
        position -= excess[row]
    kept = (position >= 0) & (position < length)
    ids, bad = _encode_values(owner, flat.filter(pl.Series(used)).filter(pl.Series(kept)), coder)
    slots = np.full((length, rows), -1, np.int32)
    slots[position[kept], row[kept]] = ids
    if bad is not None and bad.any():
        bad_rows = np.zeros(rows, bool)
        bad_rows[row[kept][bad]] = True
        add_problem(problems, column.name, bad_rows, values, "integers" if _is_identity(owner) else _EXACT)
    return slots, int(excess.sum())


def _split_bags(values: pl.Series, separator: str) -> pl.Series:
    """Returns bags as lists, whose elements keep their type."""
    if isinstance(values.dtype, pl.Array):
        return values.arr.to_list()
    if isinstance(values.dtype, pl.List):
        return values
    texts = values.cast(pl.String)
    return (texts.fill_null("") if texts.null_count() else texts).str.split(separator)


def _is_used(elements: pl.Series) -> np.ndarray:
    """Returns which elements of bags are values, [n] bool: not null, NaN or an empty text."""
    used = elements.is_not_null()
    if elements.dtype.is_float():
        used &= elements.is_not_nan()
    elif isinstance(elements.dtype, pl.String | pl.Categorical | pl.Enum):
        used &= elements.cast(pl.String) != ""
    return used.fill_null(False).to_numpy()


def _is_identity(owner: CategoricalColumn) -> bool:
    return owner.encoding == "identity"


def _encode_values(
    owner: CategoricalColumn, values: pl.Series, coder: Coder | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns codes or ids, [n] int32, and a mask of unreadable values (None if any value can be read)."""
    if _is_identity(owner):
        assert owner.rows is not None
        integers = parse_integers(values)
        none = integers.missing | integers.beyond | integers.bad
        known = ~none & (integers.values >= 0) & (integers.values < owner.rows - 1)
        return np.where(known, integers.values + 1, 0).astype(np.int32), integers.bad
    texts, inexact = to_texts(values)
    if coder is not None:
        return coder.encode(texts), inexact
    assert owner.rows is not None
    return (_hash_values(texts, owner.salt) % np.uint64(owner.rows - 1)).astype(np.int32) + 1, inexact
