"""The sparse update: merge equal rows, apply the row optimizer, write each row once and in place.

The cost follows the slots of the batch, not the rows of the table, and no temporary has a table's shape; with donated
buffers the tables are updated where they lie.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.bfloat16_rounding import draw_row_noise, round_stochastically
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.merge_rows import MergedRows, merge_equal_rows
from wukong_jax.embeddings.placement import PlacedStack
from wukong_jax.embeddings.row_gather import gather_rows
from wukong_jax.embeddings.row_optimizers import RowMean, compute_updated_rows, mean_over_row
from wukong_jax.embeddings.tables import StackState


class RowStep(NamedTuple):
    """What one step of the row optimizers depends on beside rows and gradients."""

    step: jax.Array  # int32 scalar, 0 for the first step of a run
    learning_rate_scale: jax.Array  # float32 scalar, multiplies every row optimizer's learning rate
    key: jax.Array  # for stochastic rounding

    def fold_key(self, number: jax.Array | int) -> "RowStep":
        """The same step, with another key for each `number`: a step's, a rank's or a stack's."""
        return self._replace(key=jax.random.fold_in(self.key, number))


def update_stack(
    stack: TableStack | PlacedStack,
    state: StackState,
    row_ids: jax.Array,
    gradients: jax.Array,
    rows: jax.Array | None,
    row_step: RowStep,
    row_mean: RowMean = mean_over_row,
) -> StackState:
    """Takes one step on the rows of a stack that a batch touched.

    Args:
      stack: the stack.
      state: its arrays.
      row_ids: [...] int32 in [0, V], M in all.
      gradients: [..., w] float32, one for each slot; those of row id V are ignored.
      rows: [..., w] float32, what the forward pass gathered, so that it is not gathered again; None: gather.
      row_step: the step, with a key for this stack alone.
      row_mean: the mean over a whole row where the stack holds a part of its columns.

    Returns:
      The arrays after the step.
    """
    gradients = gradients.reshape(-1, stack.width)
    merged = merge_equal_rows(row_ids.reshape(-1), gradients, state.rows.shape[0], state.scratch)
    touched = merged.row_ids
    old_rows = _select_rows(state, merged, rows)
    arrays = {name: array.at[touched].get(mode="clip") for name, array in state.optimizer.items()}
    last_step = state.last_step
    skipped = None
    if last_step is not None:
        last_touch = last_step.at[touched].get(mode="clip")
        skipped = row_step.step - 1 - last_touch
        # Equals the step; written so, the scatter waits for the gather, and the column is not copied to run them apart.
        last_step = last_step.at[touched].set(jnp.maximum(last_touch, row_step.step), mode="drop", unique_indices=True)
    new_rows, arrays = compute_updated_rows(
        stack.optimizer, old_rows, merged.gradients, arrays, skipped, row_step.learning_rate_scale, row_mean
    )
    if state.rows.dtype == jnp.uint16:
        new_rows = round_stochastically(new_rows, draw_row_noise(row_step.key, touched, stack.width))
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
    rows = rows.reshape(-1, rows.shape[-1])
    return rows if merged.sources is None else rows[merged.sources]
