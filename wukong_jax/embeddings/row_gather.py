"""From a batch's ids to rows of a stack, and to the rows' values.

A *row id* counts the rows of a stack; one that equals the stack's row count `V` stands for "no row". It never
is negative: -1 is the last row to JAX's indexing, whatever the mode.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.embeddings.bfloat16_rounding import bits_to_float32
from wukong_jax.embeddings.layout import EmbeddingLayout


def compute_row_ids(layout: EmbeddingLayout, stack: int, ids: jax.Array) -> jax.Array:
    """Turns ids within columns into row ids of one stack.

    Args:
      layout: the layout.
      stack: position in `layout.stacks`.
      ids: [B, S] int32, -1 = no id.

    Returns:
      [B, S_stack] int32 in [0, V]; V for -1, and for ids beyond the column's table, which must not
      reach the rows of the next one.
    """
    fields = layout.fields_of_stack(stack)
    slots = np.concatenate([np.arange(*field.slots) for field in fields])
    first_rows = np.concatenate([np.full(field.length, field.first_row, np.int32) for field in fields])
    rows = np.concatenate([np.full(field.length, field.rows, np.int32) for field in fields])
    own = ids if np.array_equal(slots, np.arange(ids.shape[1])) else ids[:, slots]
    return jnp.where((own >= 0) & (own < rows), own + first_rows, layout.stacks[stack].rows)


def gather_stacks(tables: Mapping[str, jax.Array], row_ids: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Reads rows of several stacks, by name; see `gather_rows`."""
    return {name: gather_rows(tables[name], row_ids[name]) for name in row_ids}


def gather_rows(rows: jax.Array, row_ids: jax.Array) -> jax.Array:
    """Reads rows of a table.

    Args:
      rows: [V, w] float32, or uint16 bits of bfloat16.
      row_ids: [...] int32 in [0, V].

    Returns:
      [..., w] float32, zeros where the row id is V.
    """
    gathered = rows.at[row_ids].get(mode="fill", fill_value=0)
    return gathered if rows.dtype == jnp.float32 else bits_to_float32(gathered)
