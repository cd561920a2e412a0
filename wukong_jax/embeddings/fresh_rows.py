"""Makes any rows of a new run's tables on the host, without the others."""

import functools
import zlib

import jax
import ml_dtypes
import numpy as np

from wukong_jax.embeddings.bfloat16_rounding import round_to_nearest_bits
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.row_optimizers import declare_optimizer_arrays
from wukong_jax.embeddings.tables import INIT_CHUNK_ROWS, describe_arrays, draw_normal


class FreshTable:
    """One table as `init_tables` creates it."""

    def __init__(self, stack: TableStack, table: str, key: jax.Array) -> None:
        """Draws nothing yet.

        Args:
          stack: the table's stack.
          table: name of the table.
          key: random key, as for `init_tables`.
        """
        place = stack.tables.index(table)
        self.rows, self.described = stack.table_rows[place], describe_arrays(stack)
        self._width, self._scale, self._in_bits = stack.width, stack.initial_scales[place], stack.dtype == "bfloat16"
        self._key = jax.random.fold_in(key, zlib.crc32(table.encode()))
        declared = declare_optimizer_arrays(stack.optimizer, stack.width)
        self._constants = {name: array.initial_value for name, array in declared.items()} | {"last_step": -1}

    def make(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Makes rows of one array.

        Args:
          name: "rows", or the name of an optimizer array.
          ids: [n] integers in [0, V), in any order.

        Returns:
          [n, ...], with the bits that `init_tables` gives these rows.
        """
        trailing, dtype = self.described[name]
        if name != "rows":
            return np.full((len(ids), *trailing), self._constants[name], dtype)
        made = np.empty((len(ids), *trailing), dtype)
        order = np.argsort(ids, kind="stable")
        chunks, starts = np.unique(ids[order] // INIT_CHUNK_ROWS, return_index=True)
        for chunk, places in zip(chunks, np.split(order, starts[1:]), strict=True):
            drawn = np.asarray(_draw_chunk(self._key, int(chunk), self._scale, self._width, self._in_bits))
            drawn = drawn.view(ml_dtypes.bfloat16) if self._in_bits else drawn
            made[places] = drawn[ids[places] % INIT_CHUNK_ROWS]
        return made


@functools.partial(jax.jit, static_argnames=("width", "in_bits"))
def _draw_chunk(key: jax.Array, chunk: int, scale: float, width: int, in_bits: bool) -> jax.Array:
    drawn = scale * draw_normal(jax.random.fold_in(key, chunk), (INIT_CHUNK_ROWS, width))
    return round_to_nearest_bits(drawn) if in_bits else drawn
