"""Wraps collectives so that they send another dtype than float32, forward and backward."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Collective = Callable[[jax.Array], jax.Array]


def send_in(dtype: Any, collective: Collective) -> Collective:
    """Makes an all-to-all send values and gradients in `dtype`.

    bfloat16 is sent as uint16 bits, because XLA:CPU would widen a bfloat16 collective to float32. The collective must
    be its own transpose, like a tiled all-to-all that splits and concatenates the same axis.

    Args:
      dtype: "float32" or "bfloat16".
      collective: a collective that moves numbers without adding.

    Returns:
      A function from float32 arrays to float32 arrays.
    """
    if jnp.dtype(dtype) == jnp.float32:
        return collective

    def move(values: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
        return jax.lax.bitcast_convert_type(collective(bits), jnp.bfloat16).astype(jnp.float32)

    moved = jax.custom_vjp(move)
    moved.defvjp(lambda values: (move(values), None), lambda _, gradient: (move(gradient),))
    return moved


def add_in(dtype: Any, collective: Collective) -> Collective:
    """Makes a reduce-scatter send values and gradients in `dtype`; sums with one term are only rounded.

    XLA:CPU widens bfloat16 to float32 in the collective; accelerators do not.

    Args:
      dtype: "float32" or "bfloat16".
      collective: a collective that adds.

    Returns:
      A function from float32 arrays to float32 arrays.
    """
    return lambda values: collective(values.astype(dtype)).astype(jnp.float32)
