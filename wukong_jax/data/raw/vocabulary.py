"""Vocabularies: which values have a row of their own, and the files that remember it.

Ids are found in two steps, so that raw files are parsed once. While reading, every value gets a *code* in order of
arrival (`ValueCodes`, a growing dictionary); when all training rows are counted, frequent values get their *id* and
a table maps codes to ids. Id 0 is the unknown row; value i of the vocabulary, sorted by count (largest first) and
then by its UTF-8 bytes, has id i + 1, whatever the order of arrival was.
"""

import dataclasses
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl

from wukong_jax.errors import UserError

UNKNOWN_ID = 0


class ValueCodes:
    """A growing dictionary from text to code; memory grows with the number of distinct values only."""

    def __init__(self) -> None:
        """Starts empty."""
        self._dtype = pl.Categorical(pl.Categories.random())
        self._keep_alive = pl.Series([], dtype=self._dtype)  # polars forgets the dictionary with its last series
        self._size = 0
        self._lock = threading.Lock()

    def encode(self, texts: pl.Series) -> np.ndarray:
        """The code of each text; new texts get new codes.

        Args:
          texts: [n] String; null is the empty text.

        Returns:
          [n] int32, from 0.
        """
        coded = texts.cast(self._dtype).to_physical()
        if coded.null_count():  # cheaper to replace as numbers than as texts
            coded = coded.fill_null(pl.Series([""]).cast(self._dtype).to_physical().item())
        codes = coded.to_numpy().view(np.int32)
        with self._lock:  # columns that share a vocabulary are encoded side by side
            self._size = max(self._size, int(codes.max(initial=-1)) + 1)
        return codes

    def texts(self) -> pl.Series:
        """Every text seen, [codes] String, at its code."""
        return pl.Series(np.arange(self._size, dtype=np.uint32)).cat.to(self._dtype).cast(pl.String)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The known values of one table, in id order: value i has id i + 1."""

    values: pl.Series  # [rows - 1] String
    counts: pl.Series  # [rows - 1] Int64, in the training rows

    @property
    def rows(self) -> int:
        """Rows of the table, the unknown row included."""
        return len(self.values) + 1


def build_vocabulary(texts: pl.Series, counts: np.ndarray, min_count: int) -> tuple[Vocabulary, np.ndarray]:
    """Chooses the values that get a row of their own.

    Args:
      texts: [codes] String, the text of each code.
      counts: [codes] or fewer integers, how often each was seen in the training rows; 0 beyond its end.
      min_count: values seen less often are unknown; at least 1.

    Returns:
      The vocabulary, and the id of each code, [codes] int32.
    """
    padded = np.zeros(len(texts), np.int64)
    padded[: len(counts)] = counts[: len(texts)]
    frame = pl.DataFrame({"value": texts, "count": padded, "code": np.arange(len(texts))})
    known = frame.filter(pl.col("count") >= max(min_count, 1), pl.col("value").is_not_null())
    known = known.sort(["count", "value"], descending=[True, False])
    ids = np.full(len(texts), UNKNOWN_ID, np.int32)
    ids[known["code"].to_numpy()] = np.arange(1, known.height + 1, dtype=np.int32)
    return Vocabulary(known["value"], known["count"]), ids


class StoredCodes:
    """Codes that start from a stored vocabulary, so that new rows get the ids of prepared ones."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Takes the vocabulary's values."""
        self._codes = ValueCodes()
        known = self._codes.encode(vocabulary.values)
        self._ids = np.full(int(known.max(initial=-1)) + 2, UNKNOWN_ID, np.int32)
        self._ids[known] = np.arange(1, vocabulary.rows, dtype=np.int32)

    def encode(self, texts: pl.Series) -> np.ndarray:
        """The id of each text, 0 where it is unknown.

        Args:
          texts: [n] String without nulls.

        Returns:
          [n] int32.
        """
        return self._ids[np.minimum(self._codes.encode(texts), len(self._ids) - 1)]


def vocabulary_path(directory: Path, column: str) -> Path:
    """Where the vocabulary of a column is stored; any character is allowed in the column's name."""
    return Path(directory) / f"{quote(column, safe=' ')}.parquet"


def save_vocabulary(vocabulary: Vocabulary, directory: Path, column: str) -> None:
    """Writes a vocabulary as Parquet, columns `value` and `count` in id order.

    Raises:
      UserError: the disk is full or the folder cannot be written.
    """
    path = vocabulary_path(directory, column)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"value": vocabulary.values, "count": vocabulary.counts}).write_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: cannot write ({error}); free space or choose another output") from None


def load_vocabulary(directory: Path, column: str) -> Vocabulary:
    """Reads what `save_vocabulary` wrote.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = vocabulary_path(directory, column)
    try:
        frame = pl.read_parquet(path)
        return Vocabulary(frame["value"], frame["count"])
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"vocabulary {path}: cannot read ({reason}); prepare the data again") from None
