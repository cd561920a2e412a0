"""Draws Zipf-distributed ids, in which few values are frequent, as in real columns."""

import numpy as np

from wukong_jax.embeddings.layout import EmbeddingLayout


def draw_zipf_ids(random: np.random.Generator, layout: EmbeddingLayout, rows: int, exponent: float) -> np.ndarray:
    """Draws [rows, S] int32 ids, Zipf-distributed over the values of each table in random order.

    Args:
      random: random generator, used column by column.
      layout: layout of the slots; bags and sequences are drawn full.
      rows: rows of the batch.
      exponent: exponent of the distribution.
    """
    ids = np.empty((rows, layout.slots), np.int32)
    for field in layout.fields:
        cumulative = np.cumsum(1 / np.arange(1, field.rows + 1) ** exponent)
        ranks = np.searchsorted(cumulative, random.random((rows, field.length)) * cumulative[-1])
        ids[:, slice(*field.slots)] = random.permutation(field.rows)[ranks]
    return ids
