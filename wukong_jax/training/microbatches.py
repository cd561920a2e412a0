"""Differentiates a batch in parts (microbatches) inside one train step, so that less has to be kept at a time.

On a CPU the tensors of a part stay in the cache; on an accelerator this is gradient accumulation, and the memory of
activations falls with the part. Every device works on parts of its own rows. The result is that of the whole batch, up
to the order of additions: dense gradients are added up in float32, row gradients are written side by side, and the
optimizers run once.

A model's running statistics (of batch norms) start from the same value in each part and take the mean of the changes:
a moving average moves once a step, by the mean of the parts' moments. The moments that normalise a part are its own.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from wukong_jax.embeddings.exchange import BY_RANK, Exchange
from wukong_jax.errors import UserError
from wukong_jax.models.shape import ModelShape
from wukong_jax.sharding.mesh import MESH_AXES

# Tensors of a part, [rows, N, D] float32, are kept at about this size: twice as much was 3 to 16 % slower, half as much
# no faster; see docs/performance.md.
CACHED_BYTES = 1 << 20
# Products of pairs, if a model says how wide they are, may be this many times as large. xDeepFM's step took 226 ms with
# 6 MB of them in a part and 287 ms with 24 MB.
PAIRS_OVER_TOKENS = 8
_BY_PART = PartitionSpec(None, MESH_AXES)

# (params, rows, statistics, routed, batch, row numbers) -> ((sums, statistics), (gradients, row gradients))
Differentiate = Callable[..., tuple[tuple[Any, Any], tuple[Any, Any]]]


def count_parts(device_rows: int, microbatch: int | None, row_bytes: int, on_cpu: bool) -> int:
    """Returns the number of parts that a device's share of a batch is divided into.

    Args:
      device_rows: rows of a batch on one device.
      microbatch: `config.training.microbatch`; None chooses.
      row_bytes: see `count_row_bytes`.
      on_cpu: whether the devices are CPUs; otherwise the default is one part.

    Raises:
      UserError: the microbatch does not divide the device's rows.
    """
    if microbatch == 0:
        return 1
    if microbatch is not None:
        if device_rows % microbatch:
            raise UserError(
                f"config.training.microbatch = {microbatch}: does not divide the {device_rows} rows of a batch on one "
                "device; choose a divisor, or 0 for the whole batch"
            )
        return device_rows // microbatch
    if not on_cpu:
        return 1
    wanted = max(1, CACHED_BYTES // max(row_bytes, 1))
    sizes = [size for size in range(1, device_rows + 1) if device_rows % size == 0 and size <= wanted]
    # If the only divisors are far smaller, small products would cost more than the cache gains.
    return device_rows // sizes[-1] if 2 * sizes[-1] >= min(wanted, device_rows) else 1


def count_row_bytes(shape: ModelShape, model: nn.Module) -> int:
    """Returns the bytes of one row by which `count_parts` chooses: 4 N D, or more if the model forms far wider tensors.

    Args:
      shape: sizes of the model's inputs.
      model: the model; its attribute `pair_row_bytes`, if it has one, is the size of one row's products of pairs.
    """
    return max(4 * shape.tokens * shape.width, getattr(model, "pair_row_bytes", 0) // PAIRS_OVER_TOKENS)


def differentiate_in_parts(
    differentiate: Differentiate, exchange: Exchange, parts: int, params: Any, statistics: Any, rows_of_batch: Any
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Differentiates each part and adds up.

    Args:
      differentiate: function (params, statistics, *part) -> ((sums, statistics), (gradients, row gradients)), where
        part are the leaves of `rows_of_batch` for some rows.
      exchange: the exchange, whose mesh shards the rows.
      parts: number of parts.
      params: dense weights.
      statistics: running statistics before the step.
      rows_of_batch: a tuple of pytrees of arrays with one or several entries per row of the batch on the first axis: of
        those that a device holds, the entries of each source's rows lie together, in the order of the rows. The row
        gradients have the shape of the first.

    Returns:
      As `differentiate` for the whole batch.
    """
    split, join = _build_split(exchange, parts, len(jax.tree.leaves(rows_of_batch[-1])[0]))
    by_part = split(rows_of_batch)
    shapes = jax.eval_shape(differentiate, params, statistics, *jax.tree.map(lambda leaf: leaf[0], by_part))
    (sums, _), (gradients, _) = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    changes = jax.tree.map(jnp.zeros_like, statistics)

    def add_part(carry: Any, part: Any) -> tuple[Any, Any]:
        (own_sums, own_statistics), (own_gradients, row_gradients) = differentiate(params, statistics, *part)
        own_changes = jax.tree.map(jnp.subtract, own_statistics, statistics)
        return jax.tree.map(jnp.add, carry, (own_sums, own_changes, own_gradients)), row_gradients

    (sums, changes, gradients), row_gradients = jax.lax.scan(add_part, (sums, changes, gradients), by_part)
    statistics = jax.tree.map(lambda before, change: before + change / parts, statistics, changes)
    return (sums, statistics), (gradients, join(row_gradients))


def _build_split(exchange: Exchange, parts: int, batch_rows: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Returns the functions that divide arrays [rows, ...] into [parts, rows / parts, ...], and back; shard-local."""
    device_rows = batch_rows // exchange.mesh.size

    def split_leaf(leaf: jax.Array) -> jax.Array:
        entries, *others = leaf.shape  # explicit sizes: a leaf without columns leaves no axis to be inferred
        by_source = leaf.reshape(entries // device_rows, parts, device_rows // parts, *others)
        return by_source.swapaxes(0, 1).reshape(parts, entries // parts, *others)

    def join_leaf(leaf: jax.Array) -> jax.Array:
        _, entries, *others = leaf.shape
        by_part = leaf.reshape(parts, parts * entries // device_rows, device_rows // parts, *others)
        return by_part.swapaxes(0, 1).reshape(parts * entries, *others)

    def split(tree: Any) -> Any:
        return jax.tree.map(split_leaf, tree)

    def join(tree: Any) -> Any:
        return jax.tree.map(join_leaf, tree)

    if exchange.mesh.size == 1:
        return split, join
    return exchange.map_shards(split, BY_RANK, _BY_PART), exchange.map_shards(join, _BY_PART, BY_RANK)
