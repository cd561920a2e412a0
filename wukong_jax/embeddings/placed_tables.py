"""Initializes the arrays of placed stacks on every rank, and converts them to and from logical tables."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.embeddings.bfloat16_rounding import round_to_nearest_bits
from wukong_jax.embeddings.filled_shards import fill_shards
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.placement import Piece, PlacedStack
from wukong_jax.embeddings.tables import (
    INIT_CHUNK_ROWS,
    LogicalTables,
    MergeMethod,
    StackState,
    allocate_scratch,
    allocate_stack,
    check_logical_table,
    describe_arrays,
    draw_normal,
    logical_arrays,
)
from wukong_jax.sharding.mesh import MESH_AXES, compute_rank


def init_placed_stack(
    source: TableStack, stack: PlacedStack, mesh: Mesh, key: jax.Array, merge: MergeMethod
) -> StackState:
    """Creates the arrays of a placed stack; each rank draws its part of the rows that one device would draw.

    Column pieces draw whole rows and keep their columns, so that initial values do not depend on the placement.

    Args:
      source: layout stack of the tables.
      stack: placed stack with their pieces.
      mesh: mesh with axes ("host", "chip").
      key: random key, as for `init_tables`.
      merge: method of merging equal rows.

    Returns:
      The arrays, [ranks * V, ...] sharded over the mesh.
    """
    scales = dict(zip(source.tables, source.initial_scales, strict=True))
    tables = stack.tables
    pieces = [stack.pieces_of_rank(rank) for rank in range(mesh.size)]
    numbers, sizes = _tabulate_pieces(pieces, tables, scales)

    def init_local(key: jax.Array) -> StackState:
        rank = compute_rank(mesh)
        state = allocate_stack(stack, merge)
        keys = jnp.stack([jax.random.fold_in(key, zlib.crc32(table.encode())) for table in tables])
        own, own_scales = jnp.asarray(numbers)[rank], jnp.asarray(sizes)[rank]
        fill = functools.partial(_fill_piece, keys, own, own_scales, stack)
        return state._replace(rows=jax.lax.fori_loop(0, own.shape[0], fill, state.rows))

    by_rank = PartitionSpec(MESH_AXES)
    init = jax.shard_map(init_local, mesh=mesh, in_specs=PartitionSpec(), out_specs=by_rank, check_vma=False)
    return jax.jit(init, out_shardings=NamedSharding(mesh, by_rank))(key)


def _tabulate_pieces(
    pieces: Sequence[Sequence[Piece]], tables: Sequence[str], scales: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns constants of every rank's pieces, [ranks, pieces, 5] int32, and scales; missing pieces have 0 rows."""
    most = max(len(own) for own in pieces)
    numbers = np.zeros((len(pieces), most, 5), np.int32)
    sizes = np.zeros((len(pieces), most), np.float32)
    for rank, own in enumerate(pieces):
        for index, piece in enumerate(own):
            place = (piece.row_start, piece.row_count, piece.first_row, piece.column_start)
            numbers[rank, index] = (tables.index(piece.table), *place)
            sizes[rank, index] = scales[piece.table]
    return numbers, sizes


def _fill_piece(
    keys: jax.Array, numbers: jax.Array, scales: jax.Array, stack: PlacedStack, piece: jax.Array, rows: jax.Array
) -> jax.Array:
    """Draws the rows of one piece in place, one chunk of the table at a time."""
    table, start, count, first_row, column = numbers[piece]

    def fill_chunk(chunk: jax.Array, rows: jax.Array) -> jax.Array:
        shape = (INIT_CHUNK_ROWS, stack.table_width)
        drawn = scales[piece] * draw_normal(jax.random.fold_in(keys[table], chunk), shape)
        drawn = jax.lax.dynamic_slice_in_dim(drawn, column, stack.width, axis=1)
        index = chunk * INIT_CHUNK_ROWS + jnp.arange(INIT_CHUNK_ROWS, dtype=jnp.int32) - start
        target = jnp.where((index >= 0) & (index < count), first_row + index, stack.rows)
        values = drawn if rows.dtype == jnp.float32 else round_to_nearest_bits(drawn)
        return rows.at[target].set(values, mode="drop")

    first_chunk = start // INIT_CHUNK_ROWS
    stop = jnp.where(count > 0, (start + count + INIT_CHUNK_ROWS - 1) // INIT_CHUNK_ROWS, first_chunk)
    return jax.lax.fori_loop(first_chunk, stop, fill_chunk, rows)


def export_placed_stack(source: TableStack, stack: PlacedStack, state: StackState) -> LogicalTables:
    """Copies the whole tables of a placed stack to the host.

    Args:
      source: layout stack of the tables.
      stack: placed stack with their pieces.
      state: the arrays; every rank's part must be addressable by this process.

    Returns:
      The arrays by table name and array name.
    """
    rows_of = dict(zip(source.tables, source.table_rows, strict=True))
    described = describe_arrays(source)
    logical = {
        table: {name: np.zeros((rows_of[table], *trailing), dtype) for name, (trailing, dtype) in described.items()}
        for table in stack.tables
    }
    for name, array in logical_arrays(state).items():
        for shard in array.addressable_shards:
            part = np.asarray(shard.data)
            if described[name][1] == ml_dtypes.bfloat16:
                part = part.view(ml_dtypes.bfloat16)
            rank = (shard.index[0].start or 0) // stack.rows
            for piece in stack.pieces_of_rank(rank):
                _view_piece(logical[piece.table][name], piece, stack.width)[...] = _rows_of_piece(part, piece)
    return logical


def import_placed_stack(
    source: TableStack,
    stack: PlacedStack,
    mesh: Mesh,
    logical: Mapping[str, Mapping[str, np.ndarray]],
    merge: MergeMethod,
) -> StackState:
    """Creates a placed stack from the result of `export_placed_stack`, or from tables in files, each rank's part of it.

    Args:
      source: layout stack of the tables.
      stack: placed stack with their pieces.
      mesh: mesh with axes ("host", "chip").
      logical: arrays by table name and array name.
      merge: method of merging equal rows.

    Returns:
      The arrays, [ranks * V, ...] sharded over the mesh.

    Raises:
      UserError: an array is missing or unexpected, or has another shape or dtype.
    """
    described = describe_arrays(source)
    for table, count in zip(source.tables, source.table_rows, strict=True):
        if table in stack.tables:
            check_logical_table(table, logical[table], {n: ((count, *s), d) for n, (s, d) in described.items()})
    sharding = NamedSharding(mesh, PartitionSpec(MESH_AXES))

    def cut(name: str, index: tuple[slice, ...]) -> np.ndarray:
        trailing, dtype = described[name]
        trailing = (stack.width,) if trailing == (stack.table_width,) else trailing
        part = np.zeros((stack.rows, *trailing), dtype)
        for piece in stack.pieces_of_rank((index[0].start or 0) // stack.rows):
            _rows_of_piece(part, piece)[...] = _view_piece(logical[piece.table][name], piece, stack.width)
        return part.view(np.uint16) if dtype == ml_dtypes.bfloat16 else part

    arrays: dict[str, Any] = {}
    for name, (trailing, _) in described.items():
        columns = (stack.width,) if trailing == (stack.table_width,) else trailing
        shape = (mesh.size * stack.rows, *columns)
        named = {table: logical[table][name] for table in stack.tables}
        if all(isinstance(table, np.ndarray) for table in named.values()):
            arrays[name] = jax.make_array_from_callback(shape, sharding, functools.partial(cut, name))
        else:
            arrays[name] = fill_shards(stack, sharding, columns, described[name][1], named)
    rows, last_step = arrays.pop("rows"), arrays.pop("last_step", None)
    scratch = jax.jit(
        lambda: allocate_scratch(mesh.size * stack.rows, merge),
        out_shardings=sharding if merge == "scratch" else None,
    )()
    return StackState(rows, arrays, last_step, scratch)


def _rows_of_piece(part: np.ndarray, piece: Piece) -> np.ndarray:
    """Returns a view of the piece's rows in its rank's part."""
    return part[piece.first_row : piece.first_row + piece.row_count]


def _view_piece(table: np.ndarray, piece: Piece, width: int) -> np.ndarray:
    """Returns a view of the piece's rectangle in the whole table; arrays with one number per row have no columns."""
    rows = slice(piece.row_start, piece.row_start + piece.row_count)
    return table[rows] if table.ndim == 1 else table[rows, piece.column_start : piece.column_start + width]
