"""Converts a batch's ids to row ids of a stack, and reads the rows.

A *row id* is the number of a row in a stack; `V`, the number of rows, means "no row". Row ids are never negative,
because JAX reads the last row for -1, regardless of the indexing mode.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.embeddings.bfloat16_rounding import bits_to_float32
from wukong_jax.embeddings.layout import EmbeddingLayout


def compute_row_ids(layout: EmbeddingLayout, stack: int, ids: jax.Array) -> jax.Array:
    """Converts ids of columns to row ids of one stack.

    Args:
      layout: the layout.
      stack: position in `layout.stacks`.
      ids: [B, S] int32, -1 = no id.

    Returns:
      [B, S_stack] int32 in [0, V]; V for -1 and for ids beyond the column's table, which must not read rows of the
      next table.
    """
    fields = layout.fields_of_stack(stack)
    slots = np.concatenate([np.arange(*field.slots) for field in fields])
    first_rows = np.concatenate([np.full(field.length, field.first_row, np.int32) for field in fields])
    rows = np.concatenate([np.full(field.length, field.rows, np.int32) for field in fields])
    own = ids if np.array_equal(slots, np.arange(ids.shape[1])) else ids[:, slots]
    return jnp.where((own >= 0) & (own < rows), own + first_rows, layout.stacks[stack].rows)


def gather_stacks(tables: Mapping[str, jax.Array], row_ids: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Reads rows of several stacks by name; see `gather_rows`."""
    return {name: gather_rows(tables[name], row_ids[name]) for name in row_ids}


def gather_rows(rows: jax.Array, row_ids: jax.Array) -> jax.Array:
    """Reads rows of a table.

    Args:
      rows: [V, w] float32, or uint16 bits of bfloat16.
      row_ids: [...] int32 in [0, V].

    Returns:
      [..., w] float32, zeros for row id V.
    """
    gathered = rows.at[row_ids].get(mode="fill", fill_value=0)
    return gathered if rows.dtype == jnp.float32 else bits_to_float32(gathered)
