"""Updates tables sparsely: merges equal rows, applies the row optimizer, and writes each touched row once.

The cost depends on the slots of the batch, not on the rows of the table, and no temporary is as large as a table. With
donated buffers, tables are updated in place.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.bfloat16_rounding import draw_row_noise, round_stochastically
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.merge_rows import PackedRows, merge_by_addition, merge_by_scratch, merge_by_sort
from wukong_jax.embeddings.placement import PlacedStack
from wukong_jax.embeddings.row_gather import gather_rows
from wukong_jax.embeddings.row_optimizers import RowChange, RowMean, compute_row_change, mean_over_row
from wukong_jax.embeddings.tables import StackState

BLOCK_ROWS = 8192  # on TPUs; a few arrays of as many rows of 256 numbers fit in 64 MiB


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
      rows: [..., w] float32 rows gathered in the forward pass, for CPUs; None: gather them here.
      row_step: the step, with a key used for this stack only.
      row_mean: mean over a whole row, if the stack holds only a part of its columns.

    Returns:
      The arrays after the step.
    """
    row_ids, gradients = row_ids.reshape(-1), gradients.reshape(-1, stack.width)
    if state.scratch is not None:
        merged = merge_by_scratch(row_ids, gradients, state.scratch)
        old_rows = gather_rows(state.rows, merged.row_ids) if rows is None else rows.reshape(-1, stack.width)
        state = _update_rows(stack, state, merged.row_ids, merged.gradients, old_rows, row_step, row_mean)
        return state._replace(scratch=merged.scratch)
    at_once = functools.partial(update_at_once, stack, row_mean=row_mean)
    in_blocks = functools.partial(update_in_blocks, stack, row_mean=row_mean)
    return jax.lax.platform_dependent(state, row_ids, gradients, row_step, tpu=in_blocks, default=at_once)


def update_at_once(
    stack: TableStack | PlacedStack,
    state: StackState,
    row_ids: jax.Array,
    gradients: jax.Array,
    row_step: RowStep,
    row_mean: RowMean = mean_over_row,
) -> StackState:
    """Updates the touched rows by sorting, for GPUs; see `update_stack`.

    Rows of the forward pass are not used: reading the touched rows again is less than keeping those of all slots until
    the update, and lets XLA pool bags while it gathers.
    """
    merged = merge_by_sort(row_ids, gradients, state.rows.shape[0])
    old_rows = gather_rows(state.rows, merged.row_ids) if _needs_rows(stack) else None
    return _update_rows(stack, state, merged.row_ids, merged.gradients, old_rows, row_step, row_mean)


def update_in_blocks(
    stack: TableStack | PlacedStack,
    state: StackState,
    row_ids: jax.Array,
    gradients: jax.Array,
    row_step: RowStep,
    row_mean: RowMean = mean_over_row,
    block: int = BLOCK_ROWS,
) -> StackState:
    """Updates the touched rows in blocks, for TPUs, where gathered and changed rows are arrays in memory otherwise.

    The loop runs over the distinct rows only, and all its temporaries fit in the memory on the chip. A mean over the
    ranks of a row is a collective, which no loop of a length unknown before the run should hold: a loop before sums the
    squares of this rank's columns, and one collective adds up all of them.
    """
    block = min(block, row_ids.shape[0])
    packed = merge_by_addition(row_ids, gradients, state.rows.shape[0], block)
    blocks = (packed.distinct + block - 1) // block
    means = None
    if row_mean is not mean_over_row and stack.optimizer.kind == "rowwise_adagrad":
        means = row_mean(_sum_squares(stack, state, packed, blocks, block)[:, None])

    def update_block(index: jax.Array, state: StackState) -> StackState:
        touched, sums = (_take_block(array, index, block) for array in packed[:2])
        own_mean = mean_over_row if means is None else lambda _: _take_block(means, index, block)
        old_rows = gather_rows(state.rows, touched) if _needs_rows(stack) else None
        return _update_rows(stack, state, touched, sums, old_rows, row_step, own_mean)

    return jax.lax.fori_loop(0, blocks, update_block, state)


def _sum_squares(
    stack: TableStack | PlacedStack, state: StackState, packed: PackedRows, blocks: jax.Array, block: int
) -> jax.Array:
    """Returns the sums of squares [n] of the rows' gradients with L2, as `compute_row_change` squares them."""

    def sum_block(index: jax.Array, found: jax.Array) -> jax.Array:
        touched, sums = (_take_block(array, index, block) for array in packed[:2])
        if stack.optimizer.l2 > 0:
            sums = sums + stack.optimizer.l2 * gather_rows(state.rows, touched)
        return jax.lax.dynamic_update_slice_in_dim(found, jnp.sum(jnp.square(sums), axis=1), index * block, 0)

    return jax.lax.fori_loop(0, blocks, sum_block, jnp.zeros(packed.row_ids.shape, jnp.float32))


def _take_block(array: jax.Array, index: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, index * block, block)


def _update_rows(
    stack: TableStack | PlacedStack,
    state: StackState,
    touched: jax.Array,
    gradients: jax.Array,
    old_rows: jax.Array | None,
    row_step: RowStep,
    row_mean: RowMean,
) -> StackState:
    """Applies merged gradients to distinct rows; see `update_stack`.

    Args:
      stack: the stack.
      state: arrays of the stack.
      touched: [m] int32, all different; V or more means no row.
      gradients: [m, w] float32.
      old_rows: [m, w] float32 rows before the step; None if only writing them needs them.
      row_step: the step.
      row_mean: mean over a whole row.

    Returns:
      The arrays after the step.
    """
    arrays = {name: array.at[touched].get(mode="clip") for name, array in state.optimizer.items()}
    last_step = state.last_step
    skipped = None
    if last_step is not None:
        last_touch = last_step.at[touched].get(mode="clip")
        skipped = row_step.step - 1 - last_touch
        # The maximum equals the step. It makes the scatter depend on the gather, so that XLA does not copy the column.
        last_step = last_step.at[touched].set(jnp.maximum(last_touch, row_step.step), mode="drop", unique_indices=True)
    change, arrays = compute_row_change(
        stack.optimizer, old_rows, gradients, arrays, skipped, row_step.learning_rate_scale, row_mean
    )
    optimizer = {
        name: array.at[touched].set(arrays[name], mode="drop", unique_indices=True)
        for name, array in state.optimizer.items()
    }
    rows = _write_rows(state.rows, touched, old_rows, change, row_step.key)
    return StackState(rows, optimizer, last_step, state.scratch)


def _needs_rows(stack: TableStack | PlacedStack) -> bool:
    """Whether the rows before the step are read apart from being written, because of L2 or rounding.

    Otherwise they are not: XLA would write them to memory first, because it cannot read other rows of an array that it
    updates in place.
    """
    return stack.optimizer.l2 > 0 or stack.dtype == "bfloat16"


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
