"""Spreads the batches that process 0 reads over the devices of all processes."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.lane_streams import build_batch
from wukong_jax.sharding.mesh import batch_sharding, replicated
from wukong_jax.sharding.team import find_team
from wukong_jax.training.run import Run


def spread_batches(run: Run, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Batch]]:
    """Spreads batches over the devices of all processes, which call this together.

    Every device adds up what all have, of which only one has rows; so no process asks another, and the end is told as a
    batch without rows.

    Args:
      run: the run.
      batches: process 0's batches of B rows, each with a row of weight above 0; those of other processes are not read.

    Yields:
      (a batch with the weights of all rows, whose other columns are padding; the batch on the devices).
    """
    extras = {name: (width,) for name, width in run.shape.extras}
    padding = build_batch([([], run.evaluation_batch_size)], extras, run.schema)
    nothing = jax.tree.map(np.zeros_like, _drop_host_columns(padding))
    devices = list(batch_sharding(run.mesh).addressable_devices)
    zeros = [jax.device_put(nothing, device) for device in devices]
    add_up = _build_sum(run.mesh)
    while True:
        batch = next(batches, padding) if find_team().is_lead else None
        first = zeros[0] if batch is None else jax.device_put(_drop_host_columns(batch), devices[0])
        placed, weight = add_up(jax.tree.map(lambda *parts: _lay_side_by_side(run.mesh, parts), first, *zeros[1:]))
        told = np.asarray(weight.addressable_data(0))
        if not told.any():
            return
        yield padding._replace(weight=told), placed


def _drop_host_columns(batch: Batch) -> Batch:
    return batch._replace(timestamp=None, group=None)


def _lay_side_by_side(mesh: Mesh, parts: tuple[jax.Array, ...]) -> jax.Array:
    """Returns [devices, B, ...], of which each of this process's devices holds the part that lies there."""
    shape = (mesh.size, *parts[0].shape)
    return jax.make_array_from_single_device_arrays(shape, batch_sharding(mesh), [part[None] for part in parts])


def _build_sum(mesh: Mesh) -> Any:
    def add_up(laid: Batch) -> tuple[Batch, jax.Array]:
        batch = jax.tree.map(lambda array: array.sum(axis=0, dtype=array.dtype), laid)
        return batch, batch.weight

    return jax.jit(add_up, out_shardings=(batch_sharding(mesh), replicated(mesh)))
