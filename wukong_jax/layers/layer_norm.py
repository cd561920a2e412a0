"""Layer norm over chosen axes, with its gradient written out."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp


class LayerNorm(nn.Module):
    """Zero mean and unit variance over `axes` of each row, then a scale and a bias for each of their positions.

    Attributes:
      axes: axes that are normalised, ascending, without the first (the rows).
      epsilon: added to the variance.
    """

    axes: tuple[int, ...]
    epsilon: float

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Normalises.

        Args:
          values: [B, ...], any float dtype; statistics are float32.

        Returns:
          An array of the same shape and dtype.
        """
        shape = tuple(values.shape[axis] for axis in self.axes)
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        return normalize(values, scale, bias, self.axes, self.epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(values: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """(values - mean) / sqrt(variance + epsilon) * scale + bias, reverse-mode differentiable.

    The variance is the mean of squared deviations, not a difference of means, which rounding would swamp where
    embeddings are tiny. Statistics are kept apart from what reads them by barriers: XLA:CPU otherwise recomputes
    square roots and means for every element of the backward's sums. Measured forward and backward on two busy cores
    at B = 4096 against a gradient left to JAX: the norm over D of [B, 16, 32] with the next product 13 ms against 41,
    over [B, 648] 40 ms against 70; a whole Wukong layer (27 tokens, D = 16, hidden 256) 4 to 10 % faster.

    Args:
      values: [B, ...] float.
      scale: float32, of the sizes of `axes`.
      bias: like `scale`.
      axes: axes to normalise over, ascending.
      epsilon: added to the variance.

    Returns:
      An array of the shape and dtype of `values`.
    """
    return _forward(values, scale, bias, axes, epsilon)[0]


_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _forward(
    values: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...], epsilon: float
) -> tuple[jax.Array, _Residuals]:
    exact = values.astype(jnp.float32)
    mean = jax.lax.optimization_barrier(exact.mean(axes, keepdims=True))
    variance = jnp.square(exact - mean).mean(axes, keepdims=True)
    inverse = jax.lax.optimization_barrier(jax.lax.rsqrt(variance + epsilon))
    made = (exact - mean) * inverse * _spread(scale, values, axes) + _spread(bias, values, axes)
    return made.astype(values.dtype), (values, mean, inverse, scale)


def _backward(
    axes: tuple[int, ...], epsilon: float, residuals: _Residuals, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    values, mean, inverse, scale = residuals
    gradient = gradient.astype(jnp.float32)
    normal = (values.astype(jnp.float32) - mean) * inverse
    scaled = gradient * _spread(scale, values, axes)
    means = scaled.mean(axes, keepdims=True), (scaled * normal).mean(axes, keepdims=True)
    of_mean, of_size = jax.lax.optimization_barrier(means)
    to_values = inverse * (scaled - of_mean - normal * of_size)
    others = tuple(axis for axis in range(values.ndim) if axis not in axes)
    return to_values.astype(values.dtype), (gradient * normal).sum(others), gradient.sum(others)


normalize.defvjp(_forward, _backward)


def _spread(parameter: jax.Array, values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Shapes a parameter of the sizes of `axes` so that it broadcasts against the values."""
    return parameter.reshape([size if axis in axes else 1 for axis, size in enumerate(values.shape)])
