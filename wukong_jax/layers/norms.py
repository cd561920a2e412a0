"""Layer norm and RMS norm over chosen axes, of all entries or of those in a mask, on one hand-written gradient."""

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
        """[B, ...] in any float dtype to the same shape and dtype; statistics are float32."""
        shape = tuple(values.shape[axis] for axis in self.axes)
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        spread = _spread_shape(values, self.axes)
        return normalize(values, scale.reshape(spread), bias.reshape(spread), axes=self.axes, epsilon=self.epsilon)


class RMSNorm(nn.Module):
    """Unit mean square over `axes` of each row, then a scale; no mean is subtracted and no bias added.

    Attributes:
      axes: axes that are normalised, ascending, without the first (the rows).
      epsilon: added to the mean square.
    """

    axes: tuple[int, ...]
    epsilon: float

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """[B, ...] in any float dtype to the same shape and dtype; statistics are float32."""
        scale = self.param("scale", nn.initializers.ones_init(), tuple(values.shape[axis] for axis in self.axes))
        scale = scale.reshape(_spread_shape(values, self.axes))
        return normalize(values, scale, axes=self.axes, epsilon=self.epsilon, centred=False)


def _spread_shape(values: jax.Array, axes: tuple[int, ...]) -> list[int]:
    """The shape in which a parameter of the sizes of `axes` broadcasts against the values."""
    return [size if axis in axes else 1 for axis, size in enumerate(values.shape)]


def normalize(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None = None,
    *,
    axes: tuple[int, ...],
    epsilon: float,
    centred: bool = True,
    mask: jax.Array | None = None,
) -> jax.Array:
    """(values - mean) / sqrt(variance + epsilon) * scale + bias, reverse-mode differentiable.

    The variance is the mean of squared deviations, not a difference of means, which rounding would swamp where
    embeddings are tiny. Statistics are kept apart from what reads them by barriers: XLA:CPU otherwise recomputes
    square roots and means for every element of the backward's sums. Measured forward and backward on two busy cores
    at B = 4096 against a gradient left to JAX: the norm over D of [B, 16, 32] with the next product 13 ms against 41,
    over [B, 648] 40 ms against 70; a whole Wukong layer (27 tokens, D = 16, hidden 256) 4 to 10 % faster.

    Args:
      values: float array of any number of axes.
      scale: float32, with as many axes as the values; of size 1 on those that share a number.
      bias: like `scale`, or None for none.
      axes: axes to normalise over, ascending.
      epsilon: added to the variance.
      centred: whether the mean is subtracted; if not, the variance is the mean square.
      mask: float32 that broadcasts to the values, of full size on `axes`; statistics count the entries where it is 1.
        Where it is 0, values must be 0, and the result is the bias. None counts all.

    Returns:
      An array of the shape and dtype of `values`.
    """
    return _normalize(values, scale, bias, mask, axes, epsilon, centred)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _normalize(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    axes: tuple[int, ...],
    epsilon: float,
    centred: bool,
) -> jax.Array:
    return _forward(values, scale, bias, mask, axes, epsilon, centred)[0]


# values, mean (None where it is not subtracted), 1 / root of the variance, scale, bias, mask
_Residuals = tuple[jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array | None, jax.Array | None]


def _forward(
    values: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    axes: tuple[int, ...],
    epsilon: float,
    centred: bool,
) -> tuple[jax.Array, _Residuals]:
    exact = values.astype(jnp.float32)
    mean = jax.lax.optimization_barrier(_mean(exact, axes, mask)) if centred else None
    deviations = _deviations(exact, mean, mask)
    variance = _mean(jnp.square(deviations), axes, mask)
    inverse = jax.lax.optimization_barrier(jax.lax.rsqrt(variance + epsilon))
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


def _mean(values: jax.Array, axes: tuple[int, ...], mask: jax.Array | None) -> jax.Array:
    if mask is None:
        return values.mean(axes, keepdims=True)
    return values.sum(axes, keepdims=True) / mask.sum(axes, keepdims=True)


def _deviations(values: jax.Array, mean: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    return _keep(values if mean is None else values - mean, mask)


def _keep(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    return values if mask is None else values * mask
