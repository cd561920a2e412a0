"""Initializes the arrays of the tables, and converts them to and from the logical form of checkpoints.

Tables are not parameters, but a separate pytree `{stack name: StackState}`.
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

INIT_CHUNK_ROWS = 4096  # rows drawn at once; fixed, because initial values depend on it
MergeMethod = Literal["scratch", "sort"]


class StackState(NamedTuple):
    """Arrays of one stack. `V` is the number of rows of all its tables."""

    rows: jax.Array  # [V, w] float32, or uint16 bits of bfloat16
    optimizer: dict[str, jax.Array]  # [V, ...] each, see `declare_optimizer_arrays`
    last_step: jax.Array | None  # [V] int32, the step that last touched a row, -1 if none; only with L2
    scratch: jax.Array | None  # [V] int32, always written before it is read; only if rows are merged with it


Tables = dict[str, StackState]
LogicalTables = dict[str, dict[str, np.ndarray]]


def init_tables(layout: EmbeddingLayout, key: jax.Array, merge: MergeMethod | None = None) -> Tables:
    """Creates the tables of a new run from a normal distribution, in chunks, so that no temporary is table-sized.

    A table's rows depend only on the key, the table's name, its width and the row index, not on the stacking.

    Args:
      layout: the layout.
      key: random key.
      merge: method of merging equal rows; None: the one for the default backend.

    Returns:
      The arrays by stack name.
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
    """Creates the arrays of a stack, or of one rank's part of a placed stack, with zero rows.

    Args:
      stack: the stack.
      merge: method of merging equal rows; None: the one for the default backend.

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
    """Copies the tables to the host, one entry per table regardless of stacks.

    Args:
      layout: the layout.
      tables: the arrays, which this process must hold completely.

    Returns:
      Arrays by table name and array name (`rows`, `accumulator`, ...), with bfloat16 rows as bfloat16. They are copies,
      because the device buffers are donated to the next step.
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
    """Creates tables from the result of `export_tables`.

    Args:
      layout: a layout with the same tables, which may stack them differently.
      logical: arrays by table name and array name.
      merge: method of merging equal rows; None: the one for the default backend.

    Returns:
      The arrays by stack name.

    Raises:
      UserError: a table or array is missing or unexpected, or has another shape or dtype.
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
    """Returns the arrays of a stack that checkpoints store, by name: all except the scratch column."""
    last_step = {} if state.last_step is None else {"last_step": state.last_step}
    return {"rows": state.rows, **state.optimizer, **last_step}


def describe_arrays(stack: TableStack) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns the trailing shape and dtype of each logical array of a stack's tables, by name."""
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
    """Checks the arrays of a logical table.

    Args:
      table: name of the table.
      arrays: arrays of the table, by name.
      described: expected (shape, dtype), by array name.

    Raises:
      UserError: an array is missing or unexpected, or has another shape or dtype.
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
    """Checks that logical tables have the names of a layout's tables.

    Raises:
      UserError: a table is missing or unexpected.
    """
    wanted = [table for stack in layout.stacks for table in stack.tables]
    if set(wanted) != set(logical):
        raise UserError(
            f"tables {sorted(logical)}: the config's schema has {sorted(wanted)}; use the schema of the run"
        )


def choose_merge(platform: str) -> MergeMethod:
    """Chooses the method of merging equal rows; on CPU, sorting costs many times more than a scratch column."""
    return "scratch" if platform == "cpu" else "sort"


def allocate_scratch(rows: int, merge: MergeMethod | None) -> jax.Array | None:
    """Returns a scratch column [rows] if rows are merged with it, else None; see `allocate_stack` for `merge`."""
    merge = merge or choose_merge(jax.default_backend())
    return jnp.zeros((rows,), jnp.int32) if merge == "scratch" else None


def draw_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws standard normal numbers, float32, that are the same to the bit wherever the rows are placed.

    Without the barrier, a compiler may compute the numbers of a slice by other instructions than those of the whole.
    """
    return jax.lax.optimization_barrier(jax.random.normal(key, shape))


@functools.partial(jax.jit, donate_argnums=0)
def _fill_rows(rows: jax.Array, key: jax.Array, first_row: int, count: int, scale: float) -> jax.Array:
    """Draws `count` rows of a stack from `first_row` on, in place, one chunk at a time."""
    total, width = rows.shape

    def fill_chunk(chunk: jax.Array, rows: jax.Array) -> jax.Array:
        drawn = scale * draw_normal(jax.random.fold_in(key, chunk), (INIT_CHUNK_ROWS, width))
        index = chunk * INIT_CHUNK_ROWS + jnp.arange(INIT_CHUNK_ROWS)
        target = jnp.where(index < count, first_row + index, total)
        values = drawn if rows.dtype == jnp.float32 else round_to_nearest_bits(drawn)
        return rows.at[target].set(values, mode="drop")

    chunks = (count + INIT_CHUNK_ROWS - 1) // INIT_CHUNK_ROWS
    return jax.lax.fori_loop(0, chunks, fill_chunk, rows)
