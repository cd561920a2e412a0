"""Sets chosen rows of tables back to what they were in a new run, wherever they are placed."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.embeddings.fresh_rows import FreshTable
from wukong_jax.embeddings.tables import StackState, Tables, logical_arrays


def reset_rows(exchange: Exchange, tables: Tables, key: jax.Array, chosen: Mapping[str, np.ndarray]) -> Tables:
    """Sets rows and their optimizer arrays back.

    Args:
      exchange: exchange that placed the tables; one process must hold all of them.
      tables: the tables, which are donated.
      key: random key with which they were created, as for `Exchange.init_tables`.
      chosen: distinct row ids by table; tables without any may be left out.

    Returns:
      The tables, in which every other row is unchanged.
    """
    sources = {table: stack for stack in exchange.layout.stacks for table in stack.tables}
    changed = dict(tables)
    for name, pieces in exchange.list_pieces().items():
        for piece in pieces:
            ids = chosen.get(piece.table, np.zeros(0, np.int64))
            ids = ids[(ids >= piece.row_start) & (ids < piece.row_start + piece.row_count)]
            if not len(ids):
                continue
            fresh = FreshTable(sources[piece.table], piece.table, key)
            columns = slice(piece.column_start, piece.column_start + piece.columns)
            values = {}
            for array in fresh.described:
                made = fresh.make(array, ids)
                made = made[:, columns] if made.ndim == 2 else made
                values[array] = made.view(np.uint16) if made.dtype == ml_dtypes.bfloat16 else made
            changed[name] = _write(changed[name], piece.first_row + ids - piece.row_start, values)
    return changed


def _write(state: StackState, places: np.ndarray, values: Mapping[str, np.ndarray]) -> StackState:
    """Writes rows of all arrays; their number is rounded up, so that few programs are compiled."""
    rows = 1 << (len(places) - 1).bit_length()
    padding = rows - len(places)
    padded = np.pad(places, (0, padding), constant_values=state.rows.shape[0]).astype(np.int32)
    arrays = logical_arrays(state)
    written = {
        name: _build_write(array.sharding)(
            array, padded, np.pad(values[name], [(0, padding)] + [(0, 0)] * (array.ndim - 1))
        )
        for name, array in arrays.items()
    }
    last_step = written.pop("last_step", None)
    return StackState(written.pop("rows"), written, last_step, state.scratch)


@functools.lru_cache(maxsize=64)
def _build_write(sharding: Any) -> Any:
    def write(array: jax.Array, places: jax.Array, values: jax.Array) -> jax.Array:
        return array.at[places].set(values, mode="drop", unique_indices=True)

    return jax.jit(write, donate_argnums=0, out_shardings=sharding)
