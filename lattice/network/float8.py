"""Matrix products in 8-bit floating point: e4m3 for values and weights, e5m2 for gradients.

Each operand of each product is divided by a scale (its largest magnitude over the format's largest number), rounded to
8 bits, and multiplied by the scale. This is "current" scaling, which keeps no history. Accelerators with 8-bit products
recognise the pattern "convert, scale, multiply". A CPU computes the same numbers in the compute dtype, which takes
longer and only shows the effect of rounding.

arXiv 2512.09200 is reported to train in FP8 with tensor-wise or row-wise scales; no details are known. Which values to
quantise is our choice: inputs, weights and gradients of the products of `lattice.network.dense`, and no others (in the
factorization machine and in attention, products of activations stay in the compute dtype).
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from wukong_jax.sharding.per_device import max_over_devices

Scaling = Literal["tensor", "row"]  # one scale per operand, or one per index of its axis that is not summed over

VALUES, GRADIENTS = jnp.float8_e4m3fn, jnp.float8_e5m2


def round_to_float8(
    values: jax.Array, kind: jnp.dtype, scaling: Scaling, summed_axis: int, of_rows: bool = False
) -> jax.Array:
    """Rounds values to 8 bits.

    Args:
      values: [M, N], any float dtype.
      kind: an 8-bit float dtype.
      scaling: "tensor" for one scale, or "row" for a scale per index of the axis that the product keeps.
      summed_axis: axis that the product sums over, 0 or 1.
      of_rows: whether the first axis is the rows of a batch, which may be split over devices: a scale over rows is that
        of the whole batch.

    Returns:
      [M, N] rounded values in the dtype of `values`; zeros stay zeros.
    """
    exact = values.astype(jnp.float32)
    largest = jnp.max(jnp.abs(exact), axis=None if scaling == "tensor" else summed_axis, keepdims=True)
    if of_rows and (scaling == "tensor" or summed_axis == 0):
        largest = max_over_devices(largest)
    # A scale below the smallest normal number may be flushed to zero, and 0 / 0 is NaN.
    scale = jnp.maximum(largest / float(jnp.finfo(kind).max), float(jnp.finfo(jnp.float32).tiny))
    return ((exact / scale).astype(kind).astype(jnp.float32) * scale).astype(values.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply_float8(values: jax.Array, kernel: jax.Array, scaling: Scaling) -> jax.Array:
    """Multiplies two matrices, both rounded to 8 bits; the two products of the gradient are rounded in the same way.

    Args:
      values: [M, K], any float dtype.
      kernel: [K, N] in the same dtype.
      scaling: see `Scaling`.

    Returns:
      [M, N] in the dtype of the operands.
    """
    return _forward(values, kernel, scaling)[0]


def _forward(values: jax.Array, kernel: jax.Array, scaling: Scaling) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    product = round_to_float8(values, VALUES, scaling, 1, True) @ round_to_float8(kernel, VALUES, scaling, 0)
    return product, (values, kernel)


def _backward(
    scaling: Scaling, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    values, kernel = residuals
    to_values = round_to_float8(gradient, GRADIENTS, scaling, 1, True) @ round_to_float8(kernel, VALUES, scaling, 1).T
    to_kernel = round_to_float8(values, VALUES, scaling, 0, True).T @ round_to_float8(
        gradient, GRADIENTS, scaling, 0, True
    )
    return to_values, to_kernel


multiply_float8.defvjp(_forward, _backward)
