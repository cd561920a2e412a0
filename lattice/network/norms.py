"""The norms of Lattice networks: root mean square without a mean, its gated form, and layer norm beside them."""

from typing import Literal

import flax.linen as nn
import jax

from wukong_jax.layers.norms import LayerNorm, RMSNorm

NormKind = Literal["swish_rms", "layer"]


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
    norm = LayerNorm if kind == "layer" else RMSNorm
    return norm((axis % values.ndim,), epsilon, name=name)(values)


def normalise_and_activate(
    kind: NormKind, values: jax.Array, name: str, axis: int = -1, epsilon: float = 1e-6
) -> jax.Array:
    """SwishRMSNorm, y = RMSNorm(x) * sigmoid(RMSNorm(x)); for "layer", layer norm and a ReLU.

    The paper (arXiv 2512.09200, section 3.3.4) puts it in the place of both: no mean is subtracted, which rounds badly.

    Arguments and result are those of `normalise`.
    """
    normal = normalise(kind, values, name, axis, epsilon)
    return nn.relu(normal) if kind == "layer" else swish(normal)
