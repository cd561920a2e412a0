"""Compiles the sparse update of one stack for a device that is not here, and writes its HLO text to a file.

    python -m tests.embeddings.compile_update TARGET OPTIMIZER SLOTS TABLE_ROWS WIDTH FILE

A process of its own, because the compilers of several platforms do not share one.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from wukong_jax.clusters.compile_ahead import describe_devices, use_no_accelerator
from wukong_jax.clusters.targets import find_target
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep, update_stack
from wukong_jax.embeddings.tables import StackState, allocate_stack


def main(target: str, kind: str, slots: int, table_rows: int, width: int, output: str) -> None:
    use_no_accelerator()
    sharding = SingleDeviceSharding(describe_devices(find_target(target))[0])
    optimizer = RowOptimizer(kind, 0.1)  # type: ignore[arg-type]
    stack = TableStack("stack", width, "float32", optimizer, ("t",), (table_rows,), (0,), (0.02,), 1, 1)

    def update(state: StackState, row_ids: jax.Array, gradients: jax.Array, row_step: RowStep) -> StackState:
        return update_stack(stack, state, row_ids, gradients, None, row_step)

    arguments = jax.eval_shape(
        lambda: (
            allocate_stack(stack, "sort"),
            jnp.zeros((slots,), jnp.int32),
            jnp.zeros((slots, width), jnp.float32),
            RowStep(jnp.int32(0), jnp.float32(1), jax.random.key(0)),
        )
    )
    arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), arguments)
    compiled = jax.jit(update, donate_argnums=0).lower(*arguments).compile()
    Path(output).write_text(compiled.as_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6])
