"""The sparse update: merge equal rows, apply the row optimizer, write each row once and in place.

The cost follows the slots of the batch, not the rows of the table, and no temporary has a table's shape; with donated
buffers the tables are updated where they lie.
"""

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.bfloat16_rounding import draw_row_noise, round_stochastically
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.merge_rows import MergedRows, merge_equal_rows
from wukong_jax.embeddings.placement import PlacedStack
from wukong_jax.embeddings.row_gather import gather_rows
from wukong_jax.embeddings.row_optimizers import RowMean, compute_updated_rows, mean_over_row
from wukong_jax.embeddings.tables import StackState


def update_stack(
    stack: TableStack | PlacedStack,
    state: StackState,
    row_ids: jax.Array,
    gradients: jax.Array,
    rows: jax.Array | None,
    step: jax.Array,
    learning_rate_scale: jax.Array,
    key: jax.Array,
    row_mean: RowMean = mean_over_row,
) -> StackState:
    """Takes one step on the rows of a stack that a batch touched.

    Args:
      stack: the stack.
      state: its arrays.
      row_ids: [M] int32 in [0, V].
      gradients: [M, w] float32, one for each slot; those of row id V are ignored.
      rows: [M, w] float32, what the forward pass gathered, so that it is not gathered again; None: gather.
      step: int32 scalar, 0 for the first step of a run.
      learning_rate_scale: float32 scalar, multiplies the learning rate.
      key: a random key for this stack and step (stochastic rounding).
      row_mean: the mean over a whole row where the stack holds a part of its columns.

    Returns:
      The arrays after the step.
    """
    merged = merge_equal_rows(row_ids, gradients, state.rows.shape[0], state.scratch)
    touched = merged.row_ids
    old_rows = _select_rows(state, merged, rows)
    arrays = {name: array.at[touched].get(mode="clip") for name, array in state.optimizer.items()}
    last_step = state.last_step
    skipped = None
    if last_step is not None:
        last_touch = last_step.at[touched].get(mode="clip")
        skipped = step - 1 - last_touch
        # Equals `step`; written so, the scatter waits for the gather, and the column is not copied to run them apart.
        last_step = last_step.at[touched].set(jnp.maximum(last_touch, step), mode="drop", unique_indices=True)
    new_rows, arrays = compute_updated_rows(
        stack.optimizer, old_rows, merged.gradients, arrays, skipped, learning_rate_scale, row_mean
    )
    if state.rows.dtype == jnp.uint16:
        new_rows = round_stochastically(new_rows, draw_row_noise(key, touched, stack.width))
    return StackState(
        rows=state.rows.at[touched].set(new_rows, mode="drop", unique_indices=True),
        optimizer={
            name: array.at[touched].set(arrays[name], mode="drop", unique_indices=True)
            for name, array in state.optimizer.items()
        },
        last_step=last_step,
        scratch=merged.scratch,
    )


def _select_rows(state: StackState, merged: MergedRows, rows: jax.Array | None) -> jax.Array:
    """The rows before the step, at the positions of the merged rows."""
    if rows is None:
        return gather_rows(state.rows, merged.row_ids)
    return rows if merged.sources is None else rows[merged.sources]
