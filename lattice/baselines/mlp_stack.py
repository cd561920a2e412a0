"""Many MLPs of equal sizes side by side: experts, gates and towers, as a few large products."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.mlp import MLP


class MLPStack(nn.Module):
    """MLPs in an array of any number of axes, each with weights of its own; parameters lead with these axes.

    Attributes:
      counts: sizes of the array's axes.
      hidden: see `wukong_jax.layers.mlp.MLP`, as all that follow.
      features: width of the outputs; None ends after the last hidden layer.
      dtype: of the products.
      biases: whether every layer adds a bias.
      dropout: rate after each hidden activation, drawn anew for each MLP.
      output_scale: initial size of the outputs over their input's.
      output_dtype: of the last product.
      norm: whether a layer norm stands before each ReLU.
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
