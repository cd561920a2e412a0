"""Updates tables sparsely: merges equal rows, applies the row optimizer, and writes each touched row once.

The cost depends on the slots of the batch, not on the rows of the table, and no temporary is as large as a table. With
donated buffers, tables are updated in place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.bfloat16_rounding import draw_row_noise, round_stochastically
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.merge_rows import MergedRows, merge_equal_rows
from wukong_jax.embeddings.placement import PlacedStack
from wukong_jax.embeddings.row_gather import gather_rows
from wukong_jax.embeddings.row_optimizers import RowChange, RowMean, compute_row_change, mean_over_row
from wukong_jax.embeddings.tables import StackState


class RowStep(NamedTuple):
    """Inputs of a row optimizers' step other than rows and gradients."""

    step: jax.Array  # int32 scalar, 0 for the first step of a run
    learning_rate_scale: jax.Array  # float32 scalar that multiplies the learning rate of every row optimizer
    key: jax.Array  # random key of stochastic rounding

    def fold_key(self, number: jax.Array | int) -> "RowStep":
        """Returns the same step with `number` (of a step, a rank or a stack) folded into the key."""
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
    """Updates the rows of a stack that a batch touches.

    Args:
      stack: the stack.
      state: arrays of the stack.
      row_ids: [...] int32 in [0, V], M in total.
      gradients: [..., w] float32, one per slot; those of row id V are ignored.
      rows: [..., w] float32 rows gathered in the forward pass; None: gather them here.
      row_step: the step, with a key used for this stack only.
      row_mean: mean over a whole row, if the stack holds only a part of its columns.

    Returns:
      The arrays after the step.
    """
    gradients = gradients.reshape(-1, stack.width)
    merged = merge_equal_rows(row_ids.reshape(-1), gradients, state.rows.shape[0], state.scratch)
    touched = merged.row_ids
    old_rows = _select_rows(state, merged, rows) if _needs_rows(stack, state) else None
    arrays = {name: array.at[touched].get(mode="clip") for name, array in state.optimizer.items()}
    last_step = state.last_step
    skipped = None
    if last_step is not None:
        last_touch = last_step.at[touched].get(mode="clip")
        skipped = row_step.step - 1 - last_touch
        # The maximum equals the step. It makes the scatter depend on the gather, so that XLA does not copy the column.
        last_step = last_step.at[touched].set(jnp.maximum(last_touch, row_step.step), mode="drop", unique_indices=True)
    change, arrays = compute_row_change(
        stack.optimizer, old_rows, merged.gradients, arrays, skipped, row_step.learning_rate_scale, row_mean
    )
    return StackState(
        rows=_write_rows(state.rows, touched, old_rows, change, row_step.key),
        optimizer={
            name: array.at[touched].set(arrays[name], mode="drop", unique_indices=True)
            for name, array in state.optimizer.items()
        },
        last_step=last_step,
        scratch=merged.scratch,
    )


def _needs_rows(stack: TableStack | PlacedStack, state: StackState) -> bool:
    """Whether the rows before the step are read apart from being written.

    L2 and rounding need them. On CPU, where the forward pass has them at hand, they are used as they are; elsewhere
    XLA would write them to memory first, because it cannot read other rows of an array that it updates in place.
    """
    return state.scratch is not None or stack.optimizer.l2 > 0 or state.rows.dtype == jnp.uint16


def _write_rows(
    rows: jax.Array, touched: jax.Array, old_rows: jax.Array | None, change: RowChange, key: jax.Array
) -> jax.Array:
    """Returns the table with the change applied to the touched rows, [V, w]."""
    if old_rows is None:
        # Rows are unique: XLA reads, adds and writes each without atomic operations.
        return rows.at[touched].add(-change.step, mode="drop", unique_indices=True)
    new_rows = change.apply(old_rows)
    if rows.dtype == jnp.uint16:
        new_rows = round_stochastically(new_rows, draw_row_noise(key, touched, rows.shape[1]))
    return rows.at[touched].set(new_rows, mode="drop", unique_indices=True)


def _select_rows(state: StackState, merged: MergedRows, rows: jax.Array | None) -> jax.Array:
    """Returns the rows before the step, at the positions of the merged rows.

    Those of the forward pass serve on CPU only. Elsewhere the touched rows are read again, which is less than keeping
    the rows of all slots until here, and lets XLA pool bags while it gathers.
    """
    if rows is None or merged.sources is not None:
        return gather_rows(state.rows, merged.row_ids)
    return rows.reshape(-1, rows.shape[-1])
