"""Computes digests of tables where their rows lie, and checks the rows that are read back.

Tensorstore checks its own structures only: a flipped bit in the rows of a table would be read as another number.
Several processes read only ranges of rows and columns, so every column of every `CHUNK` rows of a shard has a digest of
its own.
"""

import functools
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

CHUNK = 1024  # rows
_BLOCK_CHUNKS = 32  # that a device digests at a time
_WORDS = {2: np.uint16, 4: np.uint32}  # by bytes of a number


def compile_digests(arrays: Mapping[str, Mapping[str, Any]]) -> None:
    """Compiles what `digest_stacks` runs, so that the first save does not wait for it.

    Args:
      arrays: as those of `digest_stacks`, or their shapes, dtypes and shardings only.
    """
    for named in arrays.values():
        for array in named.values():
            sharding = array.sharding
            devices = _order_devices(sharding.addressable_devices)
            _compile_digest(devices, sharding.shard_shape(array.shape), np.dtype(array.dtype))


def digest_stacks(arrays: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, dict[str, jax.Array]]:
    """Computes the digests of every array of every stack, on the devices and without a copy of it.

    Args:
      arrays: [R, w] or [R] by stack and name, whole on every device or split by rows.

    Returns:
      [shards * chunks, w] or [shards * chunks] uint32 by stack and name, split as the arrays are.
    """
    return {stack: {name: _digest_array(array) for name, array in named.items()} for stack, named in arrays.items()}


def count_shards(array: jax.Array) -> int:
    """Returns into how many parts of equal length an array's rows are split."""
    return int(array.shape[0]) // max(1, int(array.sharding.shard_shape(array.shape)[0]))


def digest_rows(rows: np.ndarray) -> np.ndarray:
    """Computes the digests of rows of one shard, beginning at a multiple of `CHUNK`.

    Args:
      rows: [n, w] or [n] of 2 or 4 bytes a number.

    Returns:
      [ceil(n / CHUNK), w] or [ceil(n / CHUNK)] uint32.
    """
    words = np.ascontiguousarray(rows).view(_WORDS[rows.dtype.itemsize])
    chunks = -(-len(words) // CHUNK)
    sums = np.zeros((chunks, *words.shape[1:]), np.uint32)
    weights = _weigh(np.arange(CHUNK, dtype=np.uint32)).reshape(CHUNK, *[1] * (words.ndim - 1))
    for chunk in range(chunks):
        part = words[chunk * CHUNK : (chunk + 1) * CHUNK]
        sums[chunk] = (part * weights[: len(part)]).sum(axis=0, dtype=np.uint32)
    return sums


def _digest_array(array: jax.Array) -> jax.Array:
    shards = sorted(array.addressable_shards, key=lambda shard: shard.device.id)
    devices, own = _order_devices([shard.device for shard in shards]), shards[0].data
    digest = _compile_digest(devices, own.shape, own.dtype)
    laid = _lay_side_by_side(devices, own.shape)
    found = digest(jax.make_array_from_single_device_arrays(*laid, [shard.data for shard in shards]))
    parts = [part.data for part in sorted(found.addressable_shards, key=lambda shard: shard.device.id)]
    shape = (count_shards(array) * parts[0].shape[0], *array.shape[1:])
    return jax.make_array_from_single_device_arrays(shape, array.sharding, parts)


def _order_devices(devices: Collection[jax.Device]) -> tuple[jax.Device, ...]:
    return tuple(sorted(devices, key=lambda device: device.id))


def _lay_side_by_side(devices: tuple[jax.Device, ...], shape: tuple[int, ...]) -> tuple[tuple[int, ...], NamedSharding]:
    """Returns shape and sharding of an array of this process alone, of which each device holds a part of `shape`."""
    mesh = Mesh(np.asarray(devices), ("device",))
    return (len(devices) * shape[0], *shape[1:]), NamedSharding(mesh, PartitionSpec("device"))


@functools.lru_cache(maxsize=256)
def _compile_digest(devices: tuple[jax.Device, ...], shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Compiles one program for all devices of this process, and none for those of others."""
    whole, sharding = _lay_side_by_side(devices, shape)
    digest = jax.shard_map(_digest_shard, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=sharding.spec)
    return jax.jit(digest).lower(jax.ShapeDtypeStruct(whole, dtype, sharding=sharding)).compile()


def _digest_shard(shard: jax.Array) -> jax.Array:
    """Computes the sums of `digest_rows`, block by block, because XLA would make a temporary of the whole shard."""
    block = CHUNK * _BLOCK_CHUNKS
    blocks, rest = divmod(shard.shape[0], block)
    if not blocks:
        return _digest_chunks(shard)

    def digest_block(_: None, index: jax.Array) -> tuple[None, jax.Array]:
        return None, _digest_chunks(jax.lax.dynamic_slice_in_dim(shard, index * block, block))

    _, sums = jax.lax.scan(digest_block, None, jnp.arange(blocks))
    sums = sums.reshape(blocks * _BLOCK_CHUNKS, *shard.shape[1:])
    return jnp.concatenate([sums, _digest_chunks(shard[blocks * block :])]) if rest else sums


def _digest_chunks(rows: jax.Array) -> jax.Array:
    """[n, w] or [n] -> [ceil(n / CHUNK), w] or [ceil(n / CHUNK)] uint32."""
    words = jax.lax.bitcast_convert_type(rows, _WORDS[rows.dtype.itemsize]).astype(jnp.uint32)
    missing = -len(rows) % CHUNK
    words = jnp.pad(words, [(0, missing), *[(0, 0)] * (words.ndim - 1)])
    weights = _weigh(jnp.arange(CHUNK, dtype=jnp.uint32)).reshape(CHUNK, *[1] * (words.ndim - 1))
    return (words.reshape(-1, CHUNK, *words.shape[1:]) * weights).sum(axis=1, dtype=jnp.uint32)


def _weigh(positions: Any) -> Any:
    """Returns odd weights, so that no change of a single number leaves a sum modulo 2**32 as it was."""
    return 2 * positions + 1
