"""Finds, for each row of a table, the row that holds the same value in another prepared data set's table."""

from pathlib import Path

import numpy as np
import polars as pl

from wukong_jax.data.raw.canonical_values import canonicalise_texts
from wukong_jax.data.raw.vocabulary import UNKNOWN_ID, load_vocabulary
from wukong_jax.schema import CategoricalColumn, Schema

NO_ROW = -1


def match_rows(
    new: CategoricalColumn, vocabulary: Path, old: Schema, old_vocabulary: Path
) -> tuple[np.ndarray | None, str]:
    """Matches the rows of a vocabulary's table by value.

    Args:
      new: column that owns the vocabulary, of a resolved schema.
      vocabulary: folder of its vocabularies.
      old: resolved schema of the other data set.
      old_vocabulary: folder of that one's vocabularies.

    Returns:
      [V] int64, for each row of the new table the old row of the same value, `NO_ROW` if there is none; and "". None
      and a reason, if no row can mean the same.

    Raises:
      UserError: a vocabulary cannot be read.
    """
    columns = {column.name: column for column in old.id_columns if column.vocabulary_of is None}
    if new.name not in columns:
        return None, "no such table"
    found = columns[new.name]
    for setting in ("encoding", "transform", "boundaries") + (("rows", "salt") if new.encoding == "hash" else ()):
        if getattr(new, setting) != getattr(found, setting):
            return None, f"{setting} was {getattr(found, setting)!r}"
    assert new.rows is not None
    assert found.rows is not None
    if new.encoding != "vocabulary":  # the id is computed from the value
        rows = np.arange(new.rows)
        return np.where(rows < found.rows, rows, NO_ROW), ""
    values = load_vocabulary(vocabulary, new.name).values
    matched = np.full(new.rows, NO_ROW, np.int64)
    matched[UNKNOWN_ID] = UNKNOWN_ID
    matched[1 : len(values) + 1] = match_values(values, load_vocabulary(old_vocabulary, new.name).values)
    return matched, ""


def match_values(values: pl.Series, old_values: pl.Series) -> np.ndarray:
    """Returns for each value, [n] String, the id of the old value with the same canonical form, or `NO_ROW`.

    Earlier versions stored "7" and "7.0" as two values. The more frequent of them, which comes first, counts.
    """
    old = pl.DataFrame({"form": canonicalise_texts(old_values), "id": np.arange(1, len(old_values) + 1)})
    forms = pl.DataFrame({"form": canonicalise_texts(values)})
    joined = forms.join(old.unique("form", keep="first"), on="form", how="left", maintain_order="left")
    return joined["id"].fill_null(NO_ROW).to_numpy()
