"""Converts a batch's ids to row ids of a stack, and reads the rows.

A *row id* is the number of a row in a stack; `V`, the number of rows, means "no row". Row ids are never negative,
because JAX reads the last row for -1, regardless of the indexing mode.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.embeddings.bfloat16_rounding import bits_to_float32
from wukong_jax.embeddings.flat_bags import BagRows, FlatBags, sum_bags
from wukong_jax.embeddings.layout import EmbeddingLayout, FieldPlacement


def compute_row_ids(
    layout: EmbeddingLayout, stack: int, ids: jax.Array, fields: Sequence[FieldPlacement] | None = None
) -> jax.Array:
    """Converts ids of columns to row ids of one stack.

    Args:
      layout: the layout.
      stack: position in `layout.stacks`.
      ids: [B, S] int32, -1 = no id.
      fields: the columns; None: all that read the stack.

    Returns:
      [B, slots of the columns] int32 in [0, V]; V for -1 and for ids beyond the column's table, which must not read
      rows of the next table.
    """
    fields = layout.fields_of_stack(stack) if fields is None else fields
    first_rows = np.array([field.first_row for field in fields for _ in range(field.length)], np.int32)
    rows = np.array([field.rows for field in fields for _ in range(field.length)], np.int32)
    own = take_slots(ids, fields)
    return jnp.where((own >= 0) & (own < rows), own + first_rows, layout.stacks[stack].rows)


def take_slots(ids: jax.Array, fields: Sequence[FieldPlacement]) -> jax.Array:
    """Returns the ids [B, slots of the columns] of some columns, from those of all, [B, S]."""
    slots = np.array([slot for field in fields for slot in range(*field.slots)], np.int32)
    return ids if np.array_equal(slots, np.arange(ids.shape[1])) else ids[:, slots]


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


def gather_bags(rows: jax.Array, row_ids: jax.Array, flat: FlatBags, columns: int, longest: int) -> BagRows:
    """Reads rows of a table for columns whose bags are laid flat, and for others.

    Args:
      rows: [V, w], see `gather_rows`.
      row_ids: [R, slots of the other columns] int32 in [0, V].
      flat: the bags.
      columns: n, number of bag columns.
      longest: most slots of a bag.

    Returns:
      Rows of the other columns, and sums of the bags.
    """
    count = len(row_ids) * columns
    sums = sum_bags(gather_rows(rows, flat.row_ids), flat.bags, count, longest)
    return BagRows(gather_rows(rows, row_ids), sums.reshape(len(row_ids), columns, rows.shape[1]))
