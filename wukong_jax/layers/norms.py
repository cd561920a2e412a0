"""Layer norm and RMS norm over chosen axes, optionally masked, with a common hand-written gradient."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.layers.short_sequences import KeptTokens


class LayerNorm(nn.Module):
    """Normalises each row to zero mean and unit variance over `axes`, then applies a scale and a bias per position.

    Attributes:
      axes: axes that are normalised, ascending, without the first (the rows).
      epsilon: added to the variance.
    """

    axes: tuple[int, ...]
    epsilon: float

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Normalises [B, ...] of any float dtype, keeping shape and dtype; statistics are float32."""
        shape = tuple(values.shape[axis] for axis in self.axes)
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        spread = _spread_shape(values, self.axes)
        return normalize(values, scale.reshape(spread), bias.reshape(spread), axes=self.axes, epsilon=self.epsilon)


class RMSNorm(nn.Module):
    """Normalises each row to unit mean square over `axes`, then applies a scale per position; no mean and no bias.

    Attributes:
      axes: axes that are normalised, ascending, without the first (the rows).
      epsilon: added to the mean square.
    """

    axes: tuple[int, ...]
    epsilon: float

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Normalises [B, ...] of any float dtype, keeping shape and dtype; statistics are float32."""
        scale = self.param("scale", nn.initializers.ones_init(), tuple(values.shape[axis] for axis in self.axes))
        scale = scale.reshape(_spread_shape(values, self.axes))
        return normalize(values, scale, axes=self.axes, epsilon=self.epsilon, centred=False)


class KeptRMSNorm(nn.Module):
    """RMS norm over values of tokens of which some are left out because they are zero; equal to `RMSNorm` over all.

    Attributes:
      kept: the tokens whose values are given.
      epsilon: added to the mean square.
    """

    kept: KeptTokens
    epsilon: float

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Normalises [B, n] of any float dtype, n / count groups of the kept tokens, keeping shape and dtype."""
        kept = self.kept
        scale = self.param("scale", nn.initializers.ones_init(), (values.shape[1] // kept.count * kept.total,))
        # The mean square of all is that of the given ones times their share.
        share = kept.count / kept.total
        scale = kept.take(scale)[None] / share**0.5
        return normalize(values, scale, axes=(1,), epsilon=self.epsilon / share, centred=False)


def _spread_shape(values: jax.Array, axes: tuple[int, ...]) -> list[int]:
    """Returns the shape in which a parameter over `axes` broadcasts against the values."""
    return [size if axis in axes else 1 for axis, size in enumerate(values.shape)]


def normalize(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None = None,
    *,
    axes: tuple[int, ...],
    epsilon: float,
    centred: bool = True,
    mask: jax.Array | np.ndarray | None = None,
) -> jax.Array:
    """Computes (values - mean) / sqrt(variance + epsilon) * scale + bias; supports reverse-mode differentiation.

    The variance is the mean of squared deviations, not a difference of means, which loses all precision if embeddings
    are tiny. Optimization barriers keep XLA:CPU from recomputing square roots and means for every element of the
    backward pass. Measured forward and backward on two busy cores at B = 4096, compared with the gradient that JAX
    derives: the norm over D of [B, 16, 32] with the next product takes 13 ms instead of 41, over [B, 648] 40 ms
    instead of 70; a whole Wukong layer (27 tokens, D = 16, hidden 256) is 4 to 10 % faster.

    Args:
      values: float array with any number of axes.
      scale: float32 array with as many axes as `values`, of size 1 on axes along which the scale is shared.
      bias: array like `scale`, or None for no bias.
      axes: axes to normalise over, ascending.
      epsilon: added to the variance.
      centred: whether the mean is subtracted; if not, the variance is the mean square.
      mask: float32 array that broadcasts to `values` and has full size on `axes`; only entries where it is 1 count in
        the statistics. Where it is 0, values must be 0, and the result is the bias. None counts all entries.

    Returns:
      An array of the shape and dtype of `values`.
    """
    return _normalize(values, scale, bias, mask, axes, epsilon, centred)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _normalize(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | np.ndarray | None,
    axes: tuple[int, ...],
    epsilon: float,
    centred: bool,
) -> jax.Array:
    return _forward(values, scale, bias, mask, axes, epsilon, centred)[0]


# values, mean (None where it is not subtracted), 1 / root of the variance, scale, bias, mask
_Residuals = tuple[jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array | None, jax.Array | np.ndarray | None]


def _forward(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | np.ndarray | None,
    axes: tuple[int, ...],
    epsilon: float,
    centred: bool,
) -> tuple[jax.Array, _Residuals]:
    exact = values.astype(jnp.float32)
    mean = jax.lax.optimization_barrier(_mean(exact, axes, mask)) if centred else None
    deviations = _deviations(exact, mean, mask)
    variance = _mean(jnp.square(deviations), axes, mask)
    inverse = jax.lax.optimization_barrier(jax.lax.rsqrt(variance + epsilon))
    if centred:
        inverse = _keep(inverse, _varies(values.shape, axes, mask))
    made = deviations * inverse * scale
    made = made if bias is None else made + bias
    return made.astype(values.dtype), (values, mean, inverse, scale, bias, mask)


def _backward(
    axes: tuple[int, ...], epsilon: float, centred: bool, residuals: _Residuals, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None, None]:
    values, mean, inverse, scale, bias, mask = residuals
    gradient = gradient.astype(jnp.float32)
    normal = _deviations(values.astype(jnp.float32), mean, mask) * inverse
    scaled = _keep(gradient * scale, mask)
    of_size = _mean(scaled * normal, axes, mask)
    if centred:
        of_mean, of_size = jax.lax.optimization_barrier((_mean(scaled, axes, mask), of_size))
        to_values = inverse * (scaled - _keep(of_mean, mask) - normal * of_size)
    else:
        of_size = jax.lax.optimization_barrier(of_size)
        to_values = inverse * (scaled - normal * of_size)
    shared = tuple(axis for axis, size in enumerate(scale.shape) if size != values.shape[axis])
    to_scale = (gradient * normal).sum(shared, keepdims=True)
    to_bias = None if bias is None else gradient.sum(shared, keepdims=True)
    return to_values.astype(values.dtype), to_scale, to_bias, None


_normalize.defvjp(_forward, _backward)


def _varies(shape: tuple[int, ...], axes: tuple[int, ...], mask: jax.Array | np.ndarray | None) -> Any:
    """Returns 0 where statistics are over a single entry, whose deviation is always 0, and 1 elsewhere; None: all 1.

    Its gradient is 0, too. Left to the compiler, it would be the rounding of a product, which may be fused with the
    subtraction of its own mean, times the inverse of the root of epsilon: up to a million.
    """
    if mask is None:
        return np.float32(0) if math.prod(shape[axis] for axis in axes) == 1 else None
    return (mask.sum(axes, keepdims=True) > 1).astype(np.float32)


def _mean(values: jax.Array, axes: tuple[int, ...], mask: jax.Array | np.ndarray | None) -> jax.Array:
    if mask is None:
        return values.mean(axes, keepdims=True)
    return values.sum(axes, keepdims=True) / mask.sum(axes, keepdims=True)


def _deviations(values: jax.Array, mean: jax.Array | None, mask: jax.Array | np.ndarray | None) -> jax.Array:
    return _keep(values if mean is None else values - mean, mask)


def _keep(values: jax.Array, mask: jax.Array | np.ndarray | None) -> jax.Array:
    return values if mask is None else values * mask
