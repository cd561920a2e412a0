"""Chooses the memory layout of embedding tables on TPUs, so that a step does not copy whole tables.

By default XLA:TPU stores an array of narrow rows with the long axis innermost. To read and write single rows of 64 or
more numbers, however, it needs each row to be contiguous, so it copies the whole table before and after every step.
Such tables are therefore stored row-major from the start. Rows of fewer than 64 numbers are read in the default
layout, and widths that are multiples of 128 are row-major by default. Storing narrow tables row-major would pad every
row to 128 numbers.
"""

from typing import Any

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding

LEAST_PINNED_WIDTH = 64
TPU_LANES = 128  # a contiguous row is padded to a multiple of this
ROW_MAJOR = Layout((0, 1))


def choose_table_formats(mesh: Mesh, shapes: Any, shardings: Any) -> Any:
    """Adds a row-major layout to the shardings of the tables that need one.

    Args:
      mesh: a mesh with axes ("host", "chip").
      shapes: a pytree of the tables' arrays or their shapes, [V, w] or [V]; each device holds whole rows.
      shardings: a pytree of the same structure with the arrays' shardings.

    Returns:
      The shardings. On TPUs, each [V, w] array with w >= 64 and w not a multiple of 128 has a row-major `Format` with
      its sharding instead. `jax.jit` and `jax.device_put` accept both.
    """
    on_tpu = mesh.devices.flat[0].platform == "tpu"

    def choose(array: Any, sharding: NamedSharding) -> NamedSharding | Format:
        return Format(ROW_MAJOR, sharding) if on_tpu and _needs_row_major(array.shape) else sharding

    return jax.tree.map(choose, shapes, shardings)


def _needs_row_major(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] >= LEAST_PINNED_WIDTH and shape[1] % TPU_LANES != 0
