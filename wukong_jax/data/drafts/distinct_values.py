"""Counts the distinct values of a column in bounded memory (adaptive sampling; Wegman, see Flajolet 1990).

All values are kept with their counts until there are too many. Then only values whose hash ends in a 0 bit are kept,
then in two, and so on. Which values are kept depends on the values alone, so the counts of kept values are exact, and
the number of distinct values is about the number kept times 2 per bit (1 % off at 10,000 kept values).
"""

import numpy as np
import polars as pl

from wukong_jax.data.raw.stable_hash import hash_texts, hash_uniform

_SALT = 0x5EED


class DistinctValues:
    """Distinct texts and their counts."""

    def __init__(self, kept: int) -> None:
        """Creates an empty count that keeps at most `kept` values."""
        self._kept, self._level = kept, 0
        self._counts = pl.DataFrame(schema={"value": pl.String, "rows": pl.Int64})

    def add(self, texts: pl.Series) -> None:
        """Adds texts; nulls are not counted."""
        counts = texts.alias("value").drop_nulls().value_counts(name="rows").with_columns(pl.col("rows").cast(pl.Int64))
        if self._level:
            counts = counts.filter(self._chosen(counts["value"]))
        self._counts = pl.concat([self._counts, counts]).group_by("value").agg(pl.col("rows").sum())
        while self._counts.height > self._kept:
            self._level += 1
            self._counts = self._counts.filter(self._chosen(self._counts["value"]))

    def _chosen(self, texts: pl.Series) -> pl.Series:
        mask = np.uint64((1 << self._level) - 1)
        return pl.Series((hash_texts(texts, _SALT) & mask) == 0)

    @property
    def exact(self) -> bool:
        """Whether all values are kept."""
        return self._level == 0

    @property
    def distinct(self) -> int:
        """Number of distinct values, exact or about."""
        return self._counts.height << self._level

    def counts(self) -> pl.DataFrame:
        """Returns the kept values with their counts, columns `value` and `rows`, in the order of the values."""
        return self._counts.sort("value")


class RowSample:
    """A uniform sample of rows, chosen by a hash of their position; all rows as long as they are few."""

    def __init__(self, kept: int) -> None:
        """Creates an empty sample of at most `kept` rows."""
        self._kept, self._level, self._seen = kept, 0, 0
        self._frames: list[pl.DataFrame] = []
        self._keys: list[np.ndarray] = []

    def add(self, frame: pl.DataFrame) -> None:
        """Adds rows, in file order."""
        positions = np.arange(self._seen, self._seen + frame.height, dtype=np.int64)
        self._seen += frame.height
        self._frames.append(frame)
        self._keys.append(hash_uniform(positions, _SALT))
        self._thin()
        while sum(map(len, self._keys)) > self._kept:
            self._level += 1
            self._thin()

    def _thin(self) -> None:
        if self._level:
            chosen = [keys < 0.5**self._level for keys in self._keys]
            self._frames = [f.filter(pl.Series(rows)) for f, rows in zip(self._frames, chosen, strict=True)]
            self._keys = [keys[rows] for keys, rows in zip(self._keys, chosen, strict=True)]

    @property
    def exact(self) -> bool:
        """Whether all rows are in the sample."""
        return self._level == 0

    def frame(self) -> pl.DataFrame:
        """Returns the rows, in file order."""
        return pl.concat(self._frames, how="vertical_relaxed")
