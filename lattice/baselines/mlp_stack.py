"""Provides a stack of MLPs of equal sizes, for experts, gates and towers, computed by a few large matrix products."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.mlp import MLP


class MLPStack(nn.Module):
    """An array of MLPs with any number of axes and separate weights; these axes come first in every parameter.

    Attributes:
      counts: sizes of the array's axes.
      hidden: hidden widths; for this and the following see `wukong_jax.layers.mlp.MLP`.
      features: width of the outputs; None ends after the last hidden layer.
      dtype: dtype of the matrix products.
      biases: whether every layer adds a bias.
      dropout: rate after each hidden activation, drawn independently for each MLP.
      output_scale: initial size of the outputs relative to their inputs.
      output_dtype: dtype of the last matrix product.
      norm: whether to apply a layer norm before each ReLU.
    """

    counts: tuple[int, ...]
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
        """Applies all MLPs.

        Args:
          inputs: [*some, B, n], where `some` are the first axes of `counts`; MLPs along other axes share the inputs.
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
        mlp = MLP(
            self.hidden,
            self.features,
            self.dtype,
            self.biases,
            self.dropout,
            self.output_scale,
            self.output_dtype,
            self.norm,
            name="mlp",
        )
        return apply(mlp, inputs)
