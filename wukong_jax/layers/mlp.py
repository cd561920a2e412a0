"""Multi-layer perceptrons with ReLU hidden layers and a linear output, and stacks of MLPs of equal sizes."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.batch_norm import STATISTICS, BatchNorm
from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.norms import LayerNorm

HIDDEN_NORM_EPSILON = 1e-6
HiddenNorm = Literal["none", "layer", "batch"]
# He initialisation: the factor 2 makes up for the ReLU, which halves the mean square.
HIDDEN_INITIALIZER = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def output_initializer(scale: float = 1.0) -> nn.initializers.Initializer:
    """Returns a kernel initialiser for a linear output that starts at `scale` times its input's root mean square.

    Args:
      scale: factor, at least 0; with 0 the kernel starts at zero.

    Returns:
      A Flax initialiser for kernels of shape [inputs, outputs].
    """
    if scale == 0:
        return nn.initializers.zeros_init()
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")


def apply_hidden_norm(kind: HiddenNorm, values: jax.Array, *, train: bool, name: str) -> jax.Array:
    """Applies the norm before a hidden ReLU, [B, n] to [B, n], as a submodule of the calling module."""
    if kind == "layer":
        return LayerNorm((1,), HIDDEN_NORM_EPSILON, name=name)(values)
    if kind == "batch":
        return BatchNorm(name=name)(values, train=train)
    return values


class MLP(nn.Module):
    """ReLU hidden layers with dropout after each, then an optional linear layer.

    Attributes:
      hidden: widths of the hidden layers; an empty tuple leaves one linear layer.
      features: width of the output; None ends after the last hidden layer.
      dtype: dtype of the matrix products; parameters are float32.
      biases: whether every layer adds a bias.
      dropout: dropout rate after each hidden activation.
      output_scale: initial scale of the output, see `output_initializer`.
      output_dtype: dtype of the last product, by default `dtype`.
      norm: what each hidden layer has before its ReLU: nothing, a layer norm, or a batch norm.
    """

    hidden: tuple[int, ...]
    features: int | None
    dtype: Any = jnp.float32
    biases: bool = True
    dropout: float = 0.0
    output_scale: float = 1.0
    output_dtype: Any = None
    norm: HiddenNorm = "none"

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Applies the layers.

        Args:
          inputs: [B, inputs], any float dtype.
          train: whether dropout is on (rng collection "dropout"), and batch norms use the batch's moments.

        Returns:
          [B, features] in `output_dtype`, or the last hidden layer's output in `dtype`.
        """
        for index, width in enumerate(self.hidden):
            inputs = nn.Dense(
                width,
                use_bias=self.biases,
                dtype=self.dtype,
                kernel_init=HIDDEN_INITIALIZER,
                name=f"hidden_{index}",
            )(inputs)
            inputs = apply_hidden_norm(self.norm, inputs, train=train, name=f"norm_{index}")
            inputs = Dropout(self.dropout, deterministic=not train)(nn.relu(inputs))
        if self.features is None:
            return inputs
        return nn.Dense(
            self.features,
            use_bias=self.biases,
            dtype=self.output_dtype or self.dtype,
            kernel_init=output_initializer(self.output_scale),
            name="output",
        )(inputs)


class MLPStack(MLP):
    """An array of MLPs of equal sizes but different weights, computed with a few large products.

    The leading axes of the parameters are the axes of the array. Each MLP draws its own dropout.

    Attributes:
      counts: sizes of the array's axes, any number of them.
    """

    counts: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Applies all MLPs.

        Args:
          inputs: [*some, B, n], where `some` are the first of the counts; MLPs along the other axes read the same rows.
          train: whether dropout is on (rng collection "dropout"), and batch norms use the batch's moments.

        Returns:
          [*counts, B, width].
        """

        def apply(mlp: MLP, values: jax.Array) -> jax.Array:
            return mlp(values, train=train)

        own_inputs = inputs.ndim - 2
        for axis in reversed(range(len(self.counts))):
            apply = nn.vmap(
                apply,
                in_axes=0 if axis < own_inputs else None,
                axis_size=self.counts[axis],
                variable_axes={"params": 0, STATISTICS: 0},
                split_rngs={"params": True, "dropout": True},
            )
        one = {field.name: getattr(self, field.name) for field in dataclasses.fields(MLP)}
        return apply(MLP(**one | {"parent": self, "name": "mlp"}), inputs)
