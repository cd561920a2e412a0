"""Builds the shards of a placed stack from tables that lie in files, on each device in turn and a few rows at a time.

Neither the host nor a device ever holds more than its own rows and one block of them.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding

from wukong_jax.embeddings.placement import PlacedStack

_BLOCK_BYTES = 4 << 20


def fill_shards(
    stack: PlacedStack, sharding: NamedSharding, trailing: tuple[int, ...], dtype: np.dtype, tables: Mapping[str, Any]
) -> jax.Array:
    """Builds an array of a stack.

    Args:
      stack: placed stack with the pieces of its tables.
      sharding: sharding of the array, by rank.
      trailing: (w,) of a piece, or () of an array with one number per row.
      dtype: logical dtype of the array.
      tables: whole tables of this array, by name; indexing one with rows, or rows and columns, reads them.

    Returns:
      [ranks * V, *trailing]; bfloat16 is stored as uint16.
    """
    stored = np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype
    shape = (sharding.mesh.size * stack.rows, *trailing)
    block = max(1, _BLOCK_BYTES // (stored.itemsize * int(np.prod(trailing, initial=1))))
    shards = []
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        make = jax.jit(
            functools.partial(jnp.zeros, (stack.rows, *trailing), stored), out_shardings=SingleDeviceSharding(device)
        )
        shard = make()
        for piece in stack.pieces_of_rank((index[0].start or 0) // stack.rows):
            columns = slice(piece.column_start, piece.column_start + stack.width)
            for start in range(0, piece.row_count, block):
                count = min(block, piece.row_count - start)
                first = piece.row_start + start
                own = slice(first, first + count)
                rows = tables[piece.table][(own, columns) if trailing else own]
                shard = _write_rows(shard, rows.view(stored), np.int32(piece.first_row + start))
        shards.append(shard)
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


@functools.partial(jax.jit, donate_argnums=0)
def _write_rows(shard: jax.Array, rows: jax.Array, first: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(shard, rows, first, axis=0)
