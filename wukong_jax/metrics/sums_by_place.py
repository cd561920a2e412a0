"""Sums values by place inside jit, by the method that suits the platform."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.merge_rows import merge_by_sort


def sum_by_place(places: Sequence[jax.Array], values: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Sums the values of each place of an array.

    GPUs add many values to one place by atomic operations, one after the other and in any order; with JAX 0.10, each is
    a loop. There, the values are sorted and each place is written once.

    Args:
      places: an index along each axis of `shape`, int32 in range; their shapes broadcast to [...].
      values: [..., w] float32.
      shape: shape of the array of places.

    Returns:
      [*shape, w] float32.
    """
    add_by_sort = functools.partial(sum_by_sort, shape=shape)
    return jax.lax.platform_dependent(
        tuple(places),
        values,
        cuda=add_by_sort,
        rocm=add_by_sort,
        default=lambda places, values: jnp.zeros((*shape, values.shape[-1]), jnp.float32).at[places].add(values),
    )


def sum_by_sort(places: Sequence[jax.Array], values: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Sums the values of each place without adding in place; see `sum_by_place`."""
    width, size = values.shape[-1], math.prod(shape)
    keys: jax.Array | int = 0
    for place, length in zip(places, shape, strict=True):
        keys = keys * length + place
    merged = merge_by_sort(jnp.asarray(keys, jnp.int32).reshape(-1), values.reshape(-1, width), size)
    sums = jnp.zeros((size, width), jnp.float32)
    return sums.at[merged.row_ids].set(merged.gradients, mode="drop", unique_indices=True).reshape(*shape, width)
