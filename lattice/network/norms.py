"""The norms of Lattice networks: RMS norm and SwishRMSNorm, or layer norm instead."""

from typing import Literal

import flax.linen as nn
import jax

from wukong_jax.layers.norms import LayerNorm, RMSNorm

NormKind = Literal["swish_rms", "layer"]


def swish(values: jax.Array) -> jax.Array:
    """Computes SiLU, x * sigmoid(x)."""
    return values * jax.nn.sigmoid(values)


def normalise(kind: NormKind, values: jax.Array, name: str, axis: int = -1, epsilon: float = 1e-6) -> jax.Array:
    """Applies a norm, as submodule `name` of the module in whose compact method it is called.

    Args:
      kind: "swish_rms" for RMS norm, "layer" for layer norm.
      values: [B, ...] float.
      name: name of the submodule.
      axis: axis to normalise over.
      epsilon: added to the mean square or variance.

    Returns:
      The same shape and dtype.
    """
    norm = LayerNorm if kind == "layer" else RMSNorm
    return norm((axis % values.ndim,), epsilon, name=name)(values)


def normalise_and_activate(
    kind: NormKind, values: jax.Array, name: str, axis: int = -1, epsilon: float = 1e-6
) -> jax.Array:
    """Applies SwishRMSNorm, y = RMSNorm(x) * sigmoid(RMSNorm(x)); for "layer", layer norm and a ReLU.

    In the paper (arXiv 2512.09200, section 3.3.4), SwishRMSNorm replaces norm and activation. It subtracts no mean,
    which would lose precision.

    Arguments and result are those of `normalise`.
    """
    normal = normalise(kind, values, name, axis, epsilon)
    return nn.relu(normal) if kind == "layer" else swish(normal)
