"""Multi-layer perceptrons: ReLU hidden layers, linear output; one, or many of equal sizes side by side."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.norms import LayerNorm

HIDDEN_NORM_EPSILON = 1e-6
# He's scale before a ReLU (it halves the mean square), unit scale before nothing; both count the fan-in.
HIDDEN_INITIALIZER = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


def output_initializer(scale: float = 1.0) -> nn.initializers.Initializer:
    """Kernel initialiser of a linear output whose values start at `scale` times their input's root mean square.

    Args:
      scale: at least 0; 0 starts at zero.

    Returns:
      A Flax initialiser for kernels of shape [inputs, outputs].
    """
    if scale == 0:
        return nn.initializers.zeros_init()
    return nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")


class MLP(nn.Module):
    """ReLU hidden layers with dropout after each, then a linear layer or nothing.

    Attributes:
      hidden: widths of the hidden layers; none makes one linear layer.
      features: width of the output; None ends after the last hidden layer.
      dtype: of the products; parameters are float32.
      biases: whether every layer adds a bias.
      dropout: rate after each hidden activation.
      output_scale: see `output_initializer`.
      output_dtype: of the last product, by default `dtype`.
      norm: whether a layer norm stands between each hidden layer's product and its ReLU.
    """

    hidden: tuple[int, ...]
    features: int | None
    dtype: Any = jnp.float32
    biases: bool = True
    dropout: float = 0.0
    output_scale: float = 1.0
    output_dtype: Any = None
    norm: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Applies the layers.

        Args:
          inputs: [B, inputs], any float dtype.
          train: whether dropout is on (rng collection "dropout").

        Returns:
          [B, features] in `output_dtype`, or the last hidden layer's values in `dtype`.
        """
        for index, width in enumerate(self.hidden):
            inputs = nn.Dense(
                width,
                use_bias=self.biases,
                dtype=self.dtype,
                kernel_init=HIDDEN_INITIALIZER,
                name=f"hidden_{index}",
            )(inputs)
            if self.norm:
                inputs = LayerNorm((1,), HIDDEN_NORM_EPSILON, name=f"norm_{index}")(inputs)
            inputs = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(inputs))
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
    """MLPs of equal sizes in an array of any number of axes, each with its own weights, as a few large products.

    Parameters lead with the axes of the array; dropout is drawn anew for each MLP.

    Attributes:
      counts: sizes of the array's axes.
    """

    counts: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
        """Applies all MLPs.

        Args:
          inputs: [*some, B, n], `some` the first of the counts; MLPs along the other axes read the same rows.
          train: whether dropout is on (rng collection "dropout").

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
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
            )
        one = {field.name: getattr(self, field.name) for field in dataclasses.fields(MLP)}
        return apply(MLP(**one | {"parent": self, "name": "mlp"}), inputs)
