"""Encodes a few rows of plain values in one pass over Python objects, without a column for each of their values.

A data frame of one row costs more than its scores. This encoder takes the values whose canonical form is found without
a frame: missing values, texts, integers, whole floats, and for numbers any finite float. For them it calls what the
encoders of columns call: canonical texts, the vocabularies' ids, hashes and transforms. A row with any other value, or
one that is a mistake, is left to them, so that its meaning and its message are theirs.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wukong_jax.data.raw.canonical_values import canonical_text
from wukong_jax.data.raw.new_rows import NUMBER_BLANKS
from wukong_jax.data.raw.numeric_transforms import apply_transform, standardise, to_float32
from wukong_jax.data.raw.row_encoder import index_domains, number_columns
from wukong_jax.data.raw.stable_hash import hash_pieces, mix64
from wukong_jax.data.raw.vocabulary import UNKNOWN_ID, VocabularyIds
from wukong_jax.schema import CategoricalColumn, DenseColumn, Schema, Source

_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_DIGITS = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_EXACT = 2**53
_INT64 = 2**63


class NotPlain(Exception):
    """A value that the encoders of columns must see."""


# A slot whose id is computed from a hash, for all slots at once: (row, slot, place among the hashed columns, text).
_Hashed = tuple[int, int, int, bytes]


class PlainEncoder:
    """Encodes rows of plain values for one schema."""

    def __init__(self, schema: Schema, vocabularies: Mapping[str, VocabularyIds]) -> None:
        """Prepares what depends on the schema only.

        Args:
          schema: the resolved schema.
          vocabularies: ids by vocabulary name.
        """
        self._texts = _TextReader(schema.source)
        self._numbers = _NumberReader(schema.source)
        self._dense = _DenseColumns(schema.dense)
        self._dense_names = [(column.name, column.missing_value) for column in schema.dense]
        owners = {column.name: column for column in schema.id_columns}
        numbers = number_columns(schema)
        self._strip_numbers = [column.name in numbers for column in schema.dense]
        self._salts: list[np.uint64] = []
        self._moduli: list[np.uint64] = []
        self._columns = []
        for position, (column, start, _) in enumerate(schema.slot_ranges()):
            owner = owners[column.vocabulary]
            hashed = -1
            if owner.encoding == "hash":
                assert owner.rows is not None
                hashed = len(self._salts)
                self._salts.append(mix64(np.array([owner.salt % 2**64], np.uint64))[0])
                self._moduli.append(np.uint64(owner.rows - 1))
            ids = vocabularies.get(owner.name)
            find = None if ids is None else ids.find
            latest = position >= len(schema.categorical)
            self._columns.append(_IdColumn(column, owner, start, hashed, find, latest))
        self._hash_states = np.array(self._salts, np.uint64)
        self._hash_moduli = np.array(self._moduli, np.uint64)
        self._domain = schema.domain
        self._domains = index_domains(schema) if schema.domain is not None else {}

    def encode(self, rows: Sequence[Mapping[str, Any]], columns: dict[str, np.ndarray]) -> list[int]:
        """Encodes the rows that are plain.

        Args:
          rows: mappings from column to value.
          columns: zeros `dense` [n, F_dense], `ids` [n, S] and `domain` [n], which are filled in.

        Returns:
          The positions of the other rows, ascending.
        """
        others: list[int] = []
        numbers = np.zeros((len(rows), len(self._dense_names)))
        ids = columns["ids"]
        ids[:] = -1
        hashed: list[_Hashed] = []
        for place, row in enumerate(rows):
            before = len(hashed)
            try:
                for index, (name, missing_value) in enumerate(self._dense_names):
                    number = self._numbers.read(row[name], self._strip_numbers[index])
                    numbers[place, index] = missing_value if number is None else number
                for column in self._columns:
                    self._encode_ids(column, row[column.name], place, ids, hashed)
                if self._domain is not None:
                    columns["domain"][place] = self._domains[self._texts.read(row[self._domain])]
            except (NotPlain, KeyError, TypeError, UnicodeEncodeError):
                del hashed[before:]
                others.append(place)
        self._fill_hashes(hashed, ids)
        dense, beyond = self._dense.transform(numbers)
        columns["dense"][:] = dense
        beyond[others] = False
        return sorted([*others, *np.flatnonzero(beyond).tolist()]) if beyond.any() else others

    def _encode_ids(self, column: "_IdColumn", value: Any, place: int, ids: np.ndarray, hashed: list[_Hashed]) -> None:
        values = [self._read_single(column, value)] if column.separator is None else self._read_bag(column, value)
        for slot, text in enumerate(values, column.start):
            if column.hashed >= 0:
                hashed.append((place, slot, column.hashed, text.encode()))
            elif column.find is not None:
                ids[place, slot] = column.find(text, UNKNOWN_ID)
            else:
                ids[place, slot] = column.identify(text)

    def _read_single(self, column: "_IdColumn", value: Any) -> Any:
        """Returns the canonical text of a single value; of an identity column, its integer or None."""
        if column.transform is not None:
            number = self._numbers.read(value, column.strips)
            if number is None:
                return None if column.identity else ""
            step = float(column.transform(np.array([number]))[0])
            if not abs(step) < _EXACT:
                raise NotPlain
            return int(step) if column.identity else str(int(step))
        return self._texts.read_integer(value) if column.identity else self._texts.read(value)

    def _read_bag(self, column: "_IdColumn", value: Any) -> list[Any]:
        """Returns the values of a bag that have slots."""
        parts: Sequence[Any]
        if value is None:
            return []
        if type(value) is str:
            if not column.separator:
                raise NotPlain
            text = self._texts.clean(value)
            parts = [] if text is None else [part for part in text.split(column.separator) if part]
            read: Callable[[Any], Any] = _read_integer if column.identity else canonical_text
        elif type(value) in (list, tuple):
            parts = [part for part in value if not _is_unused(part)]
            if len({type(part) for part in parts}) > 1:
                raise NotPlain
            read = _read_integer if column.identity else _read_text
        else:
            raise NotPlain
        excess = max(len(parts) - column.length, 0)
        for part in parts:  # also those without a slot: their types are checked with the whole column
            if type(part) not in (str, int, float):
                raise NotPlain
        kept = parts[excess:] if column.latest else parts[: column.length]
        return [read(part) for part in kept]

    def _fill_hashes(self, hashed: Sequence[_Hashed], ids: np.ndarray) -> None:
        if not hashed:
            return
        rows, slots, places, texts = zip(*hashed, strict=True)
        column = np.array(places)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        hashes = hash_pieces(b"".join(texts), lengths, self._hash_states[column])
        ids[rows, slots] = (hashes % self._hash_moduli[column]).astype(np.int32) + 1


class _IdColumn:
    """An id column with what its values need."""

    def __init__(
        self,
        column: CategoricalColumn,
        owner: CategoricalColumn,
        start: int,
        hashed: int,
        find: Callable[[str, int], int] | None,
        latest: bool,
    ) -> None:
        self.name, self.separator, self.length = column.name, column.separator, column.max_length
        self.start, self.hashed, self.find, self.latest = start, hashed, find, latest
        self.identity, self.rows = owner.encoding == "identity", owner.rows or 0
        self.strips = False
        self.transform: Callable[[np.ndarray], np.ndarray] | None = None
        if column.transform != "none":
            self.transform = lambda values: apply_transform(values, column.transform, column.boundaries)

    def identify(self, integer: int | None) -> int:
        """Returns the id of an integer of an identity column."""
        return integer + 1 if integer is not None and 0 <= integer < self.rows - 1 else UNKNOWN_ID


class _TextReader:
    """Reads values that are used as texts, with the missing texts and blanks of a source."""

    def __init__(self, source: Source) -> None:
        self._plain = source.format == "parquet"  # whose readers know no missing texts
        self._strip = source.strip
        self._missing = frozenset(source.missing)
        self._missing_forms = frozenset(canonical_text(text) for text in source.missing if text)

    def clean(self, value: str) -> str | None:
        """Returns a text as the source's reader finds it, None if it means "no value"."""
        if not value.isascii():
            value.encode()  # raises for halves of characters
        if self._plain:
            return value
        text = value.strip() if self._strip else value
        if self._strip and not text.isascii():
            raise NotPlain  # which characters are blank is the column reader's say
        return None if text in self._missing else text

    def read(self, value: Any) -> str:
        """Returns the canonical text of a value; the empty text if it is missing."""
        if type(value) is str:
            return canonical_text(self.clean(value) or "")
        text = _read_text(value) if value is not None else ""
        return "" if not self._plain and text in self._missing_forms else text

    def read_integer(self, value: Any) -> int | None:
        """Returns an integer, None if it is missing."""
        if type(value) is str:
            text = self.clean(value)
            return None if text is None else _read_integer(text)
        if value is None:
            return None
        integer = _read_integer(value)
        return None if not self._plain and str(integer) in self._missing_forms else integer


class _NumberReader:
    """Reads values that are used as numbers."""

    def __init__(self, source: Source) -> None:
        self._texts = _TextReader(source)
        self._missing_forms = self._texts._missing_forms if source.format != "parquet" else frozenset()

    def read(self, value: Any, strip: bool) -> float | None:
        """Returns a finite number, None if it is missing; `strip`: blanks around texts are left out first."""
        if value is None:
            return None
        kind = type(value)
        if kind is str:
            text = self._texts.clean(value.strip(NUMBER_BLANKS) if strip else value)
            if text is None:
                return None
            if not _NUMBER.fullmatch(text):
                raise NotPlain
            number = float(text)
        elif kind is float:
            if math.isnan(value):
                return None
            number = value
        elif kind is int and -_INT64 <= value < _INT64:
            number = float(value)
        else:
            raise NotPlain
        if not math.isfinite(number):
            raise NotPlain
        if self._missing_forms and kind is not str and _read_text(value) in self._missing_forms:
            return None
        return number


class _DenseColumns:
    """Applies the transforms of all dense columns, those with the same one at once."""

    def __init__(self, columns: Sequence[DenseColumn]) -> None:
        groups: dict[Any, list[int]] = {}
        for index, column in enumerate(columns):
            groups.setdefault((column.transform, column.boundaries), []).append(index)
        self._groups = [(transform, bounds, np.array(own)) for (transform, bounds), own in groups.items()]
        self._standardised = np.array([i for i, c in enumerate(columns) if c.transform == "standardise"], np.int64)
        chosen = [columns[index] for index in self._standardised]
        self._means = np.array([column.mean for column in chosen], np.float64)
        self._deviations = np.array([column.standard_deviation for column in chosen], np.float64)

    def transform(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns [n, F_dense] float32, and [n] bool, True where float32 does not hold a number."""
        numbers = numbers.copy()
        for transform, boundaries, own in self._groups:
            if transform not in ("none", "standardise"):
                numbers[:, own] = apply_transform(numbers[:, own], transform, boundaries)
        stored, beyond = to_float32(numbers)
        if len(self._standardised):
            numbers[beyond] = 0.0
            standardised = standardise(numbers[:, self._standardised], self._means, self._deviations)
            stored[:, self._standardised], more = to_float32(standardised)
            beyond[:, self._standardised] |= more
        return stored, np.any(beyond, axis=1)


def _read_text(value: Any) -> str:
    """Returns the canonical text of a value that is not missing; NaN gives the empty text."""
    kind = type(value)
    if kind is str:
        if not value.isascii():
            value.encode()
        return canonical_text(value)
    if kind is int and -_INT64 <= value < _INT64:
        return str(value)
    if kind is float:
        if math.isnan(value):
            return ""
        if value.is_integer() and abs(value) < _EXACT:
            return str(int(value))
    raise NotPlain


def _read_integer(value: Any) -> int | None:
    kind = type(value)
    if kind is int and -_INT64 <= value < _INT64:
        return int(value)
    if kind is str and _DIGITS.fullmatch(value):
        return int(value)
    if kind is float and (math.isnan(value) or (value.is_integer() and abs(value) < _EXACT)):
        return None if math.isnan(value) else int(value)
    raise NotPlain


def _is_unused(element: Any) -> bool:
    """Returns whether an element of a bag is no value: None, NaN or an empty text."""
    return element is None or (type(element) is float and math.isnan(element)) or (type(element) is str and not element)
