"""Ids as real columns have them: a few values most of the time."""

import numpy as np

from wukong_jax.embeddings.layout import EmbeddingLayout


def draw_zipf_ids(random: np.random.Generator, layout: EmbeddingLayout, rows: int, exponent: float) -> np.ndarray:
    """[rows, S] int32 ids, Zipf over each table's values, the values in random order.

    Args:
      random: the generator, drawn from column by column.
      layout: its fields have one slot each.
      rows: of the batch.
      exponent: of the distribution.
    """
    ids = np.empty((rows, layout.slots), np.int32)
    for field in layout.fields:
        cumulative = np.cumsum(1 / np.arange(1, field.rows + 1) ** exponent)
        ranks = np.searchsorted(cumulative, random.random(rows) * cumulative[-1])
        ids[:, field.slots[0]] = random.permutation(field.rows)[ranks]
    return ids
