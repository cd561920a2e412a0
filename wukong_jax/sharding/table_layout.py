"""How a table's numbers lie in a device's memory, where the compiler's own choice would cost a copy of it every step.

XLA:TPU by default lays an array of narrow rows out with the long axis innermost, but reads and writes single rows of
64 and more numbers only where a row lies together: it then copies the whole table before and after every step. Such
tables are pinned to row-major from the start. Widths below 64 are read as they lie by default, and multiples of 128
are row-major anyway; pinning the narrow ones would pad every row to 128 numbers.
"""

from typing import Any

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding

LEAST_PINNED_WIDTH = 64
TPU_LANES = 128  # numbers that a row is padded to where it lies together
ROW_MAJOR = Layout((0, 1))


def choose_table_formats(mesh: Mesh, shapes: Any, shardings: Any) -> Any:
    """Where a mesh's tables lie, with the layout of those that need one.

    Args:
      mesh: axes ("host", "chip").
      shapes: a pytree of the tables' arrays or their shapes, [V, w] or [V]; whole rows on each device.
      shardings: their shardings, the same pytree.

    Returns:
      The shardings; on TPUs a row-major `Format` with the sharding for each [V, w] array of w >= 64 numbers that is
      no multiple of 128. `jax.jit` and `jax.device_put` take both.
    """
    on_tpu = mesh.devices.flat[0].platform == "tpu"

    def choose(array: Any, sharding: NamedSharding) -> NamedSharding | Format:
        return Format(ROW_MAJOR, sharding) if on_tpu and _needs_row_major(array.shape) else sharding

    return jax.tree.map(choose, shapes, shardings)


def _needs_row_major(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] >= LEAST_PINNED_WIDTH and shape[1] % TPU_LANES != 0
