"""The arrays of the tables: their start, and their logical form for checkpoints.

Tables are not parameters: they are a plain pytree beside the model, `{stack name: StackState}`.
"""

import functools
import zlib
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from wukong_jax.embeddings.bfloat16_rounding import round_to_nearest_bits
from wukong_jax.embeddings.layout import EmbeddingLayout, TableStack
from wukong_jax.embeddings.placement import PlacedStack
from wukong_jax.embeddings.row_optimizers import declare_optimizer_arrays
from wukong_jax.errors import UserError

INIT_CHUNK_ROWS = 4096  # rows drawn at once; part of what a seed means, so fixed
MergeMethod = Literal["scratch", "sort"]


class StackState(NamedTuple):
    """One stack's arrays. `V` counts the rows of all its tables."""

    rows: jax.Array  # [V, w] float32, or uint16 bits of bfloat16
    optimizer: dict[str, jax.Array]  # [V, ...] each, see `declare_optimizer_arrays`
    last_step: jax.Array | None  # [V] int32, the step that last touched a row, -1 before any; only with L2
    scratch: jax.Array | None  # [V] int32, never read before it is written; only where rows merge through it


Tables = dict[str, StackState]
LogicalTables = dict[str, dict[str, np.ndarray]]


def init_tables(layout: EmbeddingLayout, key: jax.Array, merge: MergeMethod | None = None) -> Tables:
    """Makes the tables of a new run, drawn normal in chunks so that no temporary has a table's size.

    A table's rows depend on the key, the table's name, its width and the row index alone, not on what it is
    stacked with.

    Args:
      layout: the layout.
      key: a random key.
      merge: how equal rows will be merged; None: as suits the default backend.

    Returns:
      Stack name to its arrays.
    """
    tables = {}
    for stack in layout.stacks:
        state = allocate_stack(stack, merge)
        rows = state.rows
        for table, first, count, scale in zip(
            stack.tables, stack.first_rows, stack.table_rows, stack.initial_scales, strict=True
        ):
            table_key = jax.random.fold_in(key, zlib.crc32(table.encode()))
            rows = _fill_rows(rows, table_key, first, count, scale)
        tables[stack.name] = state._replace(rows=rows)
    return tables


def allocate_stack(stack: TableStack | PlacedStack, merge: MergeMethod | None) -> StackState:
    """Makes a stack's arrays, rows all zero; of a placed stack one rank's part.

    Args:
      stack: the stack.
      merge: how equal rows will be merged; None: as suits the default backend.

    Returns:
      The arrays.
    """
    optimizer = {
        name: jnp.full((stack.rows, *declared.trailing_shape), declared.initial_value, declared.dtype)
        for name, declared in declare_optimizer_arrays(stack.optimizer, stack.width).items()
    }
    return StackState(
        rows=jnp.zeros((stack.rows, stack.width), jnp.float32 if stack.dtype == "float32" else jnp.uint16),
        optimizer=optimizer,
        last_step=jnp.full((stack.rows,), -1, jnp.int32) if stack.optimizer.l2 > 0 else None,
        scratch=allocate_scratch(stack.rows, merge),
    )


def export_tables(layout: EmbeddingLayout, tables: Mapping[str, StackState]) -> LogicalTables:
    """Copies the tables to the host, one entry per table whatever they were stacked with.

    Args:
      layout: the layout.
      tables: the arrays; each must be whole on this process.

    Returns:
      Table name to array name (`rows`, `accumulator`, ...) to the array; bfloat16 rows as such. Owned copies: the
      device buffers are donated to the next step.
    """
    logical: LogicalTables = {}
    for stack in layout.stacks:
        arrays = logical_arrays(tables[stack.name])
        hosted = {name: np.asarray(array) for name, array in arrays.items()}
        if stack.dtype == "bfloat16":
            hosted["rows"] = hosted["rows"].view(ml_dtypes.bfloat16)
        for table, first, count in zip(stack.tables, stack.first_rows, stack.table_rows, strict=True):
            logical[table] = {name: np.array(array[first : first + count]) for name, array in hosted.items()}
    return logical


def import_tables(
    layout: EmbeddingLayout, logical: Mapping[str, Mapping[str, np.ndarray]], merge: MergeMethod | None = None
) -> Tables:
    """The inverse of `export_tables`, into any layout that has the same tables.

    Args:
      layout: the layout, which may stack the tables differently.
      logical: table name to array name to array.
      merge: how equal rows will be merged; None: as suits the default backend.

    Returns:
      Stack name to its arrays.

    Raises:
      UserError: a table or array is missing or too many, or of another shape or dtype.
    """
    check_same_tables(layout, logical)
    tables = {}
    for stack in layout.stacks:
        described = describe_arrays(stack)
        for table, count in zip(stack.tables, stack.table_rows, strict=True):
            check_logical_table(table, logical[table], {n: ((count, *s), d) for n, (s, d) in described.items()})
        arrays = {}
        for name, (trailing, dtype) in described.items():
            whole = np.empty((stack.rows, *trailing), dtype)
            for table, first, count in zip(stack.tables, stack.first_rows, stack.table_rows, strict=True):
                whole[first : first + count] = logical[table][name]
            arrays[name] = jnp.array(whole.view(np.uint16) if whole.dtype == ml_dtypes.bfloat16 else whole, copy=True)
        rows, last_step = arrays.pop("rows"), arrays.pop("last_step", None)
        tables[stack.name] = StackState(rows, arrays, last_step, allocate_scratch(stack.rows, merge))
    return tables


def logical_arrays(state: StackState) -> dict[str, jax.Array]:
    """The arrays of a stack that a checkpoint keeps, by name: all but the scratch column."""
    last_step = {} if state.last_step is None else {"last_step": state.last_step}
    return {"rows": state.rows, **state.optimizer, **last_step}


def describe_arrays(stack: TableStack) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Trailing shape and dtype of each logical array of a stack's tables, by name."""
    row_dtype = np.dtype(np.float32 if stack.dtype == "float32" else ml_dtypes.bfloat16)
    described: dict[str, tuple[tuple[int, ...], np.dtype]] = {"rows": ((stack.width,), row_dtype)}
    for name, declared in declare_optimizer_arrays(stack.optimizer, stack.width).items():
        described[name] = (declared.trailing_shape, np.dtype(declared.dtype))
    if stack.optimizer.l2 > 0:
        described["last_step"] = ((), np.dtype(np.int32))
    return described


def check_logical_table(
    table: str, arrays: Mapping[str, np.ndarray], described: Mapping[str, tuple[tuple[int, ...], np.dtype]]
) -> None:
    """Refuses a logical table whose arrays are not those described.

    Args:
      table: its name.
      arrays: its arrays by name.
      described: what they must be: array name to (shape, dtype).

    Raises:
      UserError: an array is missing or too many, or of another shape or dtype.
    """
    if set(arrays) != set(described):
        raise UserError(
            f"table {table!r}: has arrays {sorted(arrays)}, the config's optimizer needs {sorted(described)}; "
            "use the optimizer and l2 that it was saved with"
        )
    for name, (shape, dtype) in described.items():
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise UserError(
                f"table {table!r}, {name}: {arrays[name].dtype}{list(arrays[name].shape)} does not fit the config's "
                f"{dtype}{list(shape)}; use the widths, dtype and vocabularies that it was saved with"
            )


def check_same_tables(layout: EmbeddingLayout, logical: Collection[str]) -> None:
    """Refuses tables by name that are not those of a layout.

    Raises:
      UserError: a table is missing or too many.
    """
    wanted = [table for stack in layout.stacks for table in stack.tables]
    if set(wanted) != set(logical):
        raise UserError(f"tables {sorted(logical)}: the config's schema has {sorted(wanted)}; use the run's own schema")


def choose_merge(platform: str) -> MergeMethod:
    """How equal rows are merged on a platform: on CPU a sort costs many times more than a scratch column."""
    return "scratch" if platform == "cpu" else "sort"


def allocate_scratch(rows: int, merge: MergeMethod | None) -> jax.Array | None:
    """The scratch column [rows] where rows merge through it, else None; `merge` None: as suits the default backend."""
    merge = merge or choose_merge(jax.default_backend())
    return jnp.zeros((rows,), jnp.int32) if merge == "scratch" else None


@functools.partial(jax.jit, donate_argnums=0)
def _fill_rows(rows: jax.Array, key: jax.Array, first_row: int, count: int, scale: float) -> jax.Array:
    """Draws rows `first_row` to `first_row + count` of a stack, in place, a chunk at a time."""
    total, width = rows.shape

    def fill_chunk(chunk: jax.Array, rows: jax.Array) -> jax.Array:
        drawn = scale * jax.random.normal(jax.random.fold_in(key, chunk), (INIT_CHUNK_ROWS, width))
        index = chunk * INIT_CHUNK_ROWS + jnp.arange(INIT_CHUNK_ROWS)
        target = jnp.where(index < count, first_row + index, total)
        values = drawn if rows.dtype == jnp.float32 else round_to_nearest_bits(drawn)
        return rows.at[target].set(values, mode="drop")

    chunks = (count + INIT_CHUNK_ROWS - 1) // INIT_CHUNK_ROWS
    return jax.lax.fori_loop(0, chunks, fill_chunk, rows)
