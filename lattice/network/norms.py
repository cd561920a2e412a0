"""The norms of Lattice networks: root mean square without a mean, its gated form, and layer norm beside them."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.layer_norm import LayerNorm

NormKind = Literal["swish_rms", "layer"]


class RMSNorm(nn.Module):
    """y = scale * x / sqrt(mean(x^2) + epsilon) over one axis; no mean is subtracted and no bias added.

    Attributes:
      axis: that is normalised.
      epsilon: added to the mean square.
    """

    axis: int = -1
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """[..., n, ...] to the same shape and dtype; statistics are float32."""
        axis = self.axis % values.ndim
        scale = self.param("scale", nn.initializers.ones_init(), (values.shape[axis],))
        return scale_to_unit(values, scale, axis, self.epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def scale_to_unit(values: jax.Array, scale: jax.Array, axis: int, epsilon: float) -> jax.Array:
    """The norm of `RMSNorm`, its gradient written out with the barriers that `wukong_jax.layers.layer_norm` explains.

    Args:
      values: [B, ...] float.
      scale: float32, of the size of `axis`.
      axis: that is normalised, from 1.
      epsilon: added to the mean square.

    Returns:
      An array of the shape and dtype of `values`.
    """
    return _forward(values, scale, axis, epsilon)[0]


_Residuals = tuple[jax.Array, jax.Array, jax.Array]


def _forward(values: jax.Array, scale: jax.Array, axis: int, epsilon: float) -> tuple[jax.Array, _Residuals]:
    exact = values.astype(jnp.float32)
    mean_square = jnp.square(exact).mean(axis, keepdims=True)
    inverse = jax.lax.optimization_barrier(jax.lax.rsqrt(mean_square + epsilon))
    return (exact * inverse * _spread(scale, axis, values.ndim)).astype(values.dtype), (values, inverse, scale)


def _backward(axis: int, epsilon: float, residuals: _Residuals, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    values, inverse, scale = residuals
    gradient = gradient.astype(jnp.float32)
    normal = values.astype(jnp.float32) * inverse
    scaled = gradient * _spread(scale, axis, values.ndim)
    of_size = jax.lax.optimization_barrier((scaled * normal).mean(axis, keepdims=True))
    others = tuple(place for place in range(values.ndim) if place != axis)
    return (inverse * (scaled - normal * of_size)).astype(values.dtype), (gradient * normal).sum(others)


scale_to_unit.defvjp(_forward, _backward)


def _spread(scale: jax.Array, axis: int, axes: int) -> jax.Array:
    return scale.reshape([-1 if place == axis else 1 for place in range(axes)])


def swish(values: jax.Array) -> jax.Array:
    """SiLU: x * sigmoid(x)."""
    return values * jax.nn.sigmoid(values)


def normalise(kind: NormKind, values: jax.Array, name: str, axis: int = -1, epsilon: float = 1e-6) -> jax.Array:
    """The plain norm of a kind, as submodule `name` of the module that calls this inside its compact method.

    Args:
      kind: "swish_rms" norms by the root mean square, "layer" by layer norm.
      values: [B, ...] float.
      name: of the submodule.
      axis: that is normalised.
      epsilon: added to the mean square or variance.

    Returns:
      The same shape and dtype.
    """
    if kind == "layer":
        return LayerNorm((axis % values.ndim,), epsilon, name=name)(values)
    return RMSNorm(axis, epsilon, name=name)(values)


def normalise_and_activate(
    kind: NormKind, values: jax.Array, name: str, axis: int = -1, epsilon: float = 1e-6
) -> jax.Array:
    """SwishRMSNorm, y = RMSNorm(x) * sigmoid(RMSNorm(x)); for "layer", layer norm and a ReLU.

    The paper (arXiv 2512.09200, section 3.3.4) puts it in the place of both: no mean is subtracted, which rounds badly.

    Arguments and result are those of `normalise`.
    """
    normal = normalise(kind, values, name, axis, epsilon)
    return nn.relu(normal) if kind == "layer" else swish(normal)
