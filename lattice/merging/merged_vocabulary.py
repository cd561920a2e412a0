"""The union of several vocabularies, in the order of a vocabulary that was prepared from all their rows."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from wukong_jax.data.raw.canonical_values import canonicalise_texts
from wukong_jax.data.raw.vocabulary import UNKNOWN_ID, Vocabulary


def merge_vocabularies(vocabularies: Sequence[Vocabulary]) -> tuple[Vocabulary, list[np.ndarray]]:
    """Merges vocabularies.

    Values are the same if their canonical forms are. Their counts are added, and as in every vocabulary the largest
    count comes first, and among equal counts the smaller UTF-8 bytes. A value that a data set counted as unknown stays
    so in its rows, since its text is not stored.

    Args:
      vocabularies: one or more.

    Returns:
      The union; and for each vocabulary the merged id of each of its ids, [rows + 1] int32, whose last entry is that of
      id -1, no value.
    """
    frame = pl.concat(
        pl.DataFrame(
            {
                "value": canonicalise_texts(vocabulary.values),
                "count": vocabulary.counts,
                "of": np.full(len(vocabulary.values), place, np.int32),
            }
        )
        for place, vocabulary in enumerate(vocabularies)
    )
    union = frame.group_by("value").agg(pl.col("count").sum())
    union = union.sort(["count", "value"], descending=[True, False]).with_row_index("id", 1)
    ids = frame.join(union.select("value", "id"), on="value", how="left", maintain_order="left")
    of, merged = ids["of"].to_numpy(), ids["id"].to_numpy().astype(np.int32)
    tables = [
        np.concatenate([[UNKNOWN_ID], merged[of == place], [-1]]).astype(np.int32) for place in range(len(vocabularies))
    ]
    return Vocabulary(union["value"], union["count"]), tables
