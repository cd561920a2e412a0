"""Collectives whose payload travels in another dtype than the arithmetic before and after, forward and backward."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Collective = Callable[[jax.Array], jax.Array]


def send_in(dtype: Any, collective: Collective) -> Collective:
    """An all-to-all in `dtype`, for values and for gradients.

    bfloat16 travels as the bits of uint16: XLA:CPU would widen a bfloat16 collective to float32. The collective must be
    its own transpose, as a tiled all-to-all that splits and joins one axis is.

    Args:
      dtype: "float32" or "bfloat16".
      collective: moves numbers and adds none up.

    Returns:
      A function of float32 arrays to float32 arrays.
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
    """A reduce-scatter in `dtype`, values and gradients alike; where a sum has one term, it only rounds.

    XLA:CPU widens bfloat16 to float32 on the way; accelerators do not.

    Args:
      dtype: "float32" or "bfloat16".
      collective: adds numbers up.

    Returns:
      A function of float32 arrays to float32 arrays.
    """
    return lambda values: collective(values.astype(dtype)).astype(jnp.float32)
