"""Builds, saves and loads vocabularies, which map values to ids.

Ids are assigned in two steps, so that raw files are parsed only once. During reading, every value gets a *code* in
order of arrival (`ValueCodes`, a growing dictionary). Once the values of all training rows are counted, frequent
values get an *id*, and a table maps codes to ids. Id 0 stands for all out-of-vocabulary values. Values are sorted by
count (largest first) and then by their UTF-8 bytes, and value i has id i + 1, so ids do not depend on the order of
arrival.
"""

import dataclasses
import hashlib
import re
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl

from wukong_jax.data.raw.canonical_values import canonicalise_texts
from wukong_jax.errors import UserError
from wukong_jax.files.error_output import without_error_output
from wukong_jax.messages import first_line
from wukong_jax.schema import MAX_ROWS

UNKNOWN_ID = 0
_SUFFIX, _MAX_FILE_NAME, _DIGEST = ".parquet", 255, 16  # bytes that file systems allow; hexadecimal digits of a hash


class ValueCodes:
    """A growing dictionary from text to code; its memory depends only on the number of distinct values."""

    def __init__(self) -> None:
        """Creates an empty dictionary."""
        self._dtype = pl.Categorical(pl.Categories.random())
        self._keep_alive = pl.Series([], dtype=self._dtype)  # polars deletes the dictionary with its last series
        self._size = 0
        self._lock = threading.Lock()

    def encode(self, texts: pl.Series) -> np.ndarray:
        """Returns the code of each text; new texts get new codes.

        Args:
          texts: [n] String; null counts as the empty text.

        Returns:
          [n] int32, at least 0.

        Raises:
          UserError: there are too many distinct texts.
        """
        coded = texts.cast(self._dtype).to_physical()
        if coded.null_count():  # replacing codes is cheaper than replacing texts
            coded = coded.fill_null(pl.Series([""]).cast(self._dtype).to_physical().item())
        codes = coded.to_numpy()
        size = int(codes.max()) + 1 if len(codes) else 0
        if size > MAX_ROWS:
            raise UserError(
                f"encoding = 'vocabulary': {size:,} distinct values, the limit is {MAX_ROWS:,}; use encoding 'hash'"
            )
        with self._lock:  # columns that share a vocabulary are encoded in parallel
            self._size = max(self._size, size)
        return codes.view(np.int32)

    def texts(self, start: int = 0) -> pl.Series:
        """Returns the texts seen so far in order of their codes, from code `start`, [codes] String."""
        codes = pl.Series(np.arange(start, self._size, dtype=np.uint32))
        return codes.cat.to(self._dtype).cast(pl.String)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The values of one table in id order: value i has id i + 1."""

    values: pl.Series  # [rows - 1] String
    counts: pl.Series  # [rows - 1] Int64, occurrences in the training rows

    @property
    def rows(self) -> int:
        """Rows of the table, including row 0 for out-of-vocabulary values."""
        return len(self.values) + 1


def build_vocabulary(texts: pl.Series, counts: np.ndarray, min_count: int) -> tuple[Vocabulary, np.ndarray]:
    """Builds the vocabulary of the values that occur often enough.

    Texts of one canonical form (see `canonical_values`) are one value. The form is found here, once for each distinct
    text, since finding it while rows are read costs time for each of them.

    Args:
      texts: [codes] String, the text of each code.
      counts: [codes] integers, occurrences of each code in the training rows; if shorter, the rest counts as 0.
      min_count: values with fewer occurrences are out-of-vocabulary; at least 1.

    Returns:
      The vocabulary, and the id of each code, [codes] int32.
    """
    padded = np.zeros(len(texts), np.int64)
    padded[: len(counts)] = counts[: len(texts)]
    forms = canonicalise_texts(texts)
    frame = pl.DataFrame({"value": forms, "count": padded, "code": np.arange(len(texts))})
    values = frame
    if forms is not texts:
        values = frame.group_by("value").agg(pl.col("count").sum(), pl.col("code").first())
    known = values.filter(pl.col("count") >= max(min_count, 1), pl.col("value").is_not_null())
    known = known.sort(["count", "value"], descending=[True, False])
    ids = np.full(len(texts), UNKNOWN_ID, np.int32)
    ids[known["code"].to_numpy()] = np.arange(1, known.height + 1, dtype=np.int32)
    if forms is not texts:  # all codes of a form get its id
        first = frame.select(pl.col("code").first().over("value")).to_series()
        ids = ids[first.to_numpy()]
    return Vocabulary(known["value"], known["count"]), ids


class StoredCodes:
    """Encodes texts with a stored vocabulary, so that new rows get the same ids as the prepared data."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Creates an encoder for a vocabulary."""
        self._codes = ValueCodes()
        self._lock = threading.Lock()
        forms = self._codes.encode(canonicalise_texts(vocabulary.values))
        stored = self._codes.encode(vocabulary.values)
        self._ids = np.full(max(forms.max(initial=0), stored.max(initial=0)) + 1, UNKNOWN_ID, np.int32)
        # An older version stored "7" and "7.0" as two values. The last assignment holds: the more frequent of them.
        self._ids[forms[::-1]] = np.arange(1, vocabulary.rows, dtype=np.int32)[::-1]
        self._ids[stored] = self._ids[forms]

    def encode(self, texts: pl.Series) -> np.ndarray:
        """Returns the id of each text's canonical form; 0 if it is out-of-vocabulary.

        Args:
          texts: [n] String; null counts as the empty text.

        Returns:
          [n] int32.
        """
        codes = self._codes.encode(texts)
        with self._lock:  # columns that share a vocabulary are encoded in parallel
            if codes.max(initial=-1) >= len(self._ids):
                self._add_new_texts()
            ids = self._ids
        return ids[codes]

    def _add_new_texts(self) -> None:
        """Finds the ids of texts without an id so far: unknown, unless their canonical form has one."""
        known = len(self._ids)
        texts = self._codes.texts(known)
        forms = canonicalise_texts(texts)
        ids = np.full(len(texts), UNKNOWN_ID, np.int32)
        if forms is not texts:
            codes = self._codes.encode(forms)  # a form that is new, too, is unknown
            ids = np.where(codes < known, self._ids.take(codes, mode="clip"), UNKNOWN_ID).astype(np.int32)
        self._ids = np.concatenate([self._ids, ids])


class VocabularyIds:
    """Maps texts to the ids of a stored vocabulary, as `StoredCodes` does, with memory that new texts do not enlarge.

    It is for processes that score rows for weeks. A value takes about 130 bytes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Creates the map."""
        forms = canonicalise_texts(vocabulary.values).to_list()
        self._ids = dict(zip(reversed(forms), range(len(forms), 0, -1), strict=True))
        self.find = self._ids.get  # the id of a canonical text, or the default

    def encode(self, texts: pl.Series) -> np.ndarray:
        """Returns the id of each text's canonical form; 0 if it is out-of-vocabulary.

        Args:
          texts: [n] String; null counts as the empty text.

        Returns:
          [n] int32.
        """
        forms = canonicalise_texts(texts.fill_null("") if texts.null_count() else texts)
        return np.fromiter((self.find(form, UNKNOWN_ID) for form in forms.to_list()), np.int32, len(forms))


def vocabulary_path(directory: Path, column: str) -> Path:
    """Returns the path of a column's vocabulary; the column's name may contain any character and have any length."""
    name = quote(column, safe=" ")
    if len(name) + len(_SUFFIX) > _MAX_FILE_NAME:
        digest = hashlib.sha256(column.encode()).hexdigest()[:_DIGEST]
        start = re.sub("%[0-9A-F]?$", "", name[: _MAX_FILE_NAME - len(_SUFFIX) - _DIGEST - 1])
        name = f"{start}={digest}"  # no other name contains "=", which is quoted
    return Path(directory) / f"{name}{_SUFFIX}"


def save_vocabulary(vocabulary: Vocabulary, directory: Path, column: str) -> None:
    """Writes a vocabulary as a Parquet file with columns `value` and `count`, in id order.

    Raises:
      UserError: the file cannot be written, for example because the disk is full.
    """
    path = vocabulary_path(directory, column)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"value": vocabulary.values, "count": vocabulary.counts}).write_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: cannot write ({error}); free space or choose another output") from None


def load_vocabulary(directory: Path, column: str) -> Vocabulary:
    """Reads a vocabulary written by `save_vocabulary`.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = vocabulary_path(directory, column)
    try:
        with without_error_output():
            # No glob pattern: the path may contain `[` or `*`.
            frame = pl.read_parquet(path, columns=["value", "count"], glob=False, hive_partitioning=False)
        if frame.schema != {"value": pl.String, "count": pl.Int64} or frame["value"].null_count():
            raise pl.exceptions.SchemaError(f"its columns are {dict(frame.schema)}, or a value is null")
        return Vocabulary(frame["value"], frame["count"])
    except (OSError, MemoryError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = first_line(error)[:200]
        raise UserError(f"vocabulary {path}: cannot read ({reason}); prepare the data again") from None
