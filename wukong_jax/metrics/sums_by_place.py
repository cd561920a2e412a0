"""Sums values by place inside jit, by the method that suits the platform."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from wukong_jax.embeddings.merge_rows import merge_by_sort


def sum_by_place(places: Sequence[jax.Array], values: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Sums the values of each place of an array.

    GPUs add many values to one place by atomic operations, one after the other and in any order; with JAX 0.10, each is
    a loop. There, the values are sorted and each place is written once.

    Args:
      places: an index along each axis of `shape`, int32 in range; their shapes broadcast to [...].
      values: [..., *window] float32.
      shape: shape of the array of places.

    Returns:
      [*shape, *window] float32.
    """
    if choose_method() == "sort":
        return sum_by_sort(places, values, shape)
    window = values.shape[max(place.ndim for place in places) :]
    return jnp.zeros((*shape, *window), jnp.float32).at[tuple(places)].add(values)


def choose_method() -> Literal["add", "sort"]:
    """Chooses by the default backend, as tables choose how to merge equal rows."""
    return "sort" if jax.default_backend() in ("gpu", "cuda", "rocm") else "add"


def sum_by_sort(places: Sequence[jax.Array], values: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Sums the values of each place without adding in place; see `sum_by_place`."""
    size = math.prod(shape)
    keys: jax.Array | int = 0
    for place, length in zip(places, shape, strict=True):
        keys = keys * length + place
    keys = jnp.asarray(keys, jnp.int32)
    window = values.shape[keys.ndim :]
    merged = merge_by_sort(keys.reshape(-1), values.reshape(keys.size, -1), size)
    sums = jnp.zeros((size, math.prod(window)), jnp.float32)
    sums = sums.at[merged.row_ids].set(merged.gradients, mode="drop", unique_indices=True)
    return sums.reshape(*shape, *window)
