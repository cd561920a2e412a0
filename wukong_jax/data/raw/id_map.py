"""Keeps a table of few rows for values without end: which value has which row, and which loses it to a new one.

An id map is changed once a *period* (a day, an hour), by the values that were seen in it. A value gets a row when it
has been seen often enough; if all rows are taken, the values that the rule ranks highest keep theirs, and the others
lose them. Sightings of values without a row are kept too, of a limited number of them. What a map does depends on the
counts of each period only, not on their order.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl

from wukong_jax.data.raw.vocabulary import UNKNOWN_ID, Vocabulary
from wukong_jax.errors import UserError
from wukong_jax.messages import first_line
from wukong_jax.ranges import AtLeast

Eviction = Literal["least_recent", "least_frequent"]
_TYPES = {"value": pl.String, "sightings": pl.Int64, "last_seen": pl.Int64, "row": pl.Int64}
# What makes a value keep or get a row, most important first. Recent values that have a row come before new ones, so
# that those of one period do not take each other's rows.
_RANKS = {
    "least_recent": ("last_seen", "has_row", "sightings"),
    "least_frequent": ("sightings", "last_seen", "has_row"),
}


@dataclasses.dataclass(frozen=True)
class IdMapRule:
    """Which values have a row."""

    rows: Annotated[int, AtLeast(2)]  # V, including row 0 for all values without a row
    admit_after: Annotated[int, AtLeast(1)]  # sightings until a value may have a row
    evict: Eviction  # which values lose their rows
    candidates: Annotated[int, AtLeast(0)]  # values without a row whose sightings are kept


class IdMap(NamedTuple):
    """The values that have a row, or may get one."""

    tracked: pl.DataFrame  # value, sightings, last_seen (period), row (0: none yet), ordered by value


class Changes(NamedTuple):
    """What a period changed in a map."""

    admitted: np.ndarray  # [n] rows that got a value, ascending
    evicted: np.ndarray  # [m] those of them that another value had before


def empty_id_map() -> IdMap:
    """Returns a map without values."""
    return IdMap(pl.DataFrame(schema=_TYPES))


def advance_id_map(ids: IdMap, seen: pl.DataFrame, period: int, rule: IdMapRule) -> tuple[IdMap, Changes]:
    """Counts the values of a period, and decides which have a row from now on.

    Of the values with enough sightings, the `rows - 1` best by the rule have a row; ties go by the value's bytes. Those
    that had one keep it; the others take rows that were never used, from low to high, and then the rows that were lost.

    Args:
      ids: the map.
      seen: the period's distinct values: value (String), count (integers above 0).
      period: number of the period, above those before.
      rule: the rule.

    Returns:
      The map after the period, and the changes.
    """
    tracked = (
        ids.tracked.join(seen, on="value", how="full", coalesce=True)
        .with_columns(
            sightings=pl.col("sightings").fill_null(0) + pl.col("count").fill_null(0).cast(pl.Int64),
            last_seen=pl.when(pl.col("count").is_not_null()).then(pl.lit(period, pl.Int64)).otherwise("last_seen"),
            row=pl.col("row").fill_null(UNKNOWN_ID),
        )
        .with_columns(has_row=pl.col("row") != UNKNOWN_ID)
    )
    ranks = _RANKS[rule.evict]
    ranked = tracked.sort([*ranks, "value"], descending=[True] * len(ranks) + [False])
    best = ranked["sightings"] >= rule.admit_after
    best &= best.cast(pl.Int64).cum_sum() < rule.rows
    old_rows = ranked["row"].to_numpy()
    wins, had = best.to_numpy(), ranked["has_row"].to_numpy()
    evicted = np.sort(old_rows[had & ~wins])
    newcomers = np.flatnonzero(wins & ~had)
    first_unused = int(old_rows.max(initial=UNKNOWN_ID)) + 1
    unused = np.arange(first_unused, min(first_unused + len(newcomers), rule.rows))
    given = np.concatenate([unused, evicted])[: len(newcomers)]
    rows = np.where(wins, old_rows, UNKNOWN_ID)
    rows[newcomers] = given
    waiting = np.cumsum(~wins) <= rule.candidates
    kept = ranked.with_columns(row=pl.Series(rows)).filter(pl.Series(wins | waiting))
    return IdMap(kept.select(*_TYPES).sort("value")), Changes(np.sort(given), evicted)


def count_rows(ids: IdMap) -> int:
    """Returns the rows that have a value."""
    return int((ids.tracked["row"] != UNKNOWN_ID).sum())


def find_rows(ids: IdMap, values: pl.Series) -> np.ndarray:
    """Returns the row of each value, [n] int32; 0 for those without one, and for null."""
    found = values.alias("value").to_frame().join(ids.tracked, on="value", how="left", maintain_order="left")
    return found["row"].fill_null(UNKNOWN_ID).cast(pl.Int32).to_numpy()


def to_vocabulary(ids: IdMap) -> Vocabulary:
    """Returns the values that have a row as a vocabulary, in which value i has id i + 1."""
    known = ids.tracked.filter(pl.col("row") != UNKNOWN_ID).sort("row")
    return Vocabulary(known["value"], known["sightings"].alias("count"))


def save_id_map(ids: IdMap, path: Path) -> None:
    """Writes a map as a Parquet file.

    Raises:
      OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ids.tracked.write_parquet(path)


def load_id_map(path: Path) -> IdMap:
    """Reads a map that `save_id_map` wrote.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        tracked = pl.read_parquet(path, glob=False, hive_partitioning=False)
        if dict(tracked.schema) != _TYPES or any(tracked.null_count().row(0)):
            raise pl.exceptions.SchemaError("it has other columns")
        return IdMap(tracked)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise UserError(f"{path}: cannot read ({first_line(error)[:150]}); use a copy of the run") from None
