"""DCNv2's cross network: x_{l+1} = x_0 * (M_l x_l + b_l) + x_l, with a full or a low-rank M_l."""

from typing import Any

import flax.linen as nn
import jax

from wukong_jax.layers.mlp import output_initializer


class CrossNetwork(nn.Module):
    """Cross layers over a flat vector; each one multiplies by the input again, so l layers reach order l + 1.

    Attributes:
      layers: number of cross layers.
      rank: None for a square kernel; otherwise M_l = W_l V_l, where V_l maps to `rank` values and W_l back, without a
        non-linearity between them, as in TorchRec's LowRankCrossNet.
      biases: whether each layer has a bias b_l.
      dtype: dtype of the matrix products; parameters are float32.
    """

    layers: int
    rank: int | None = None
    biases: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the layers.

        Args:
          inputs: [B, width] float.

        Returns:
          [B, width] in the inputs' dtype.
        """
        crossed = inputs
        for index in range(self.layers):
            mixed = crossed
            if self.rank is not None:
                mixed = self._linear(self.rank, False, f"down_{index}")(mixed)
            mixed = self._linear(inputs.shape[1], self.biases, f"cross_{index}")(mixed)
            crossed = inputs * mixed.astype(inputs.dtype) + crossed
        return crossed

    def _linear(self, features: int, bias: bool, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=bias, dtype=self.dtype, kernel_init=output_initializer(), name=name)
