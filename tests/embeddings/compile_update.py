"""Compiles the sparse update of one stack for a device that is not here, and writes its HLO text to a file.

    python -m tests.embeddings.compile_update TARGET OPTIMIZER SLOTS TABLE_ROWS WIDTH SHARDS FILE

With several shards, each device holds WIDTH columns of every row, as of a column-wise table. A process of its own,
because the compilers of several platforms do not share one.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from wukong_jax.clusters.compile_ahead import describe_devices, use_no_accelerator
from wukong_jax.clusters.targets import find_target
from wukong_jax.embeddings.layout import TableStack
from wukong_jax.embeddings.row_optimizers import RowOptimizer, mean_over_row
from wukong_jax.embeddings.sparse_update import RowStep, update_stack
from wukong_jax.embeddings.tables import StackState, allocate_stack
from wukong_jax.sharding.mesh import MESH_AXES, build_mesh


def main(target: str, kind: str, slots: int, table_rows: int, width: int, shards: int, output: str) -> None:
    use_no_accelerator()
    devices = describe_devices(find_target(target))
    optimizer = RowOptimizer(kind, 0.1)  # type: ignore[arg-type]
    stack = TableStack("stack", width, "float32", optimizer, ("t",), (table_rows,), (0,), (0.02,), 1, 1)

    def update(state: StackState, row_ids: jax.Array, gradients: jax.Array, row_step: RowStep) -> StackState:
        return update_stack(stack, state, row_ids, gradients, None, row_step, row_mean)

    def mean_over_shards(values: jax.Array) -> jax.Array:
        return jax.lax.psum(values.sum(axis=1), MESH_AXES) / (shards * width)

    row_mean = mean_over_row if shards == 1 else mean_over_shards

    arguments = jax.eval_shape(
        lambda: (
            allocate_stack(stack, "sort"),
            jnp.zeros((slots,), jnp.int32),
            jnp.zeros((slots, width), jnp.float32),
            RowStep(jnp.int32(0), jnp.float32(1), jax.random.key(0)),
        )
    )
    sharding: SingleDeviceSharding | NamedSharding = SingleDeviceSharding(devices[0])
    if shards > 1:
        mesh = build_mesh(1, shards, devices)
        # Each device has its own part of all arrays, of which only the shape matters here.
        sharding = NamedSharding(mesh, PartitionSpec())
        update = jax.shard_map(update, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
    arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), arguments)
    compiled = jax.jit(update, donate_argnums=0).lower(*arguments).compile()
    Path(output).write_text(compiled.as_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:7]), sys.argv[7])
