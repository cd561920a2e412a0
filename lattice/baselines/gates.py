"""Soft gates of experts: shares that sum to one, a linear map of the task's input away."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.mlp import MLPStack


class SoftmaxGates(nn.Module):
    """softmax(W_t x) for each task, without biases.

    Attributes:
      gates: number of gates.
      choices: E, experts that each of them mixes.
      dtype: of the products; shares are float32 until they enter one.
    """

    gates: int
    choices: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Computes the shares.

        Args:
          inputs: [gates, B, n], or [B, n] where all gates read the same.

        Returns:
          [gates, B, E] float32.
        """
        linear = MLPStack(
            (), self.choices, self.dtype, biases=False, output_dtype=jnp.float32, counts=(self.gates,), name="linear"
        )
        return jax.nn.softmax(linear(inputs, train=False), axis=2)


def mix_shared(shares: jax.Array, experts: jax.Array) -> jax.Array:
    """Mixes experts that all tasks see.

    One product a row: at B = 4096, 6 tasks, 8 experts and 64 units it took 28 ms forward and backward on two busy
    cores, where sums of scaled experts took 765 to 1094 ms.

    Args:
      shares: [T, B, E] float.
      experts: [E, B, h] float.

    Returns:
      [T, B, h] in the experts' dtype.
    """
    return jnp.einsum("tbe,ebh->tbh", shares.astype(experts.dtype), experts)


def mix_own(shares: jax.Array, experts: jax.Array) -> jax.Array:
    """Mixes experts that each task has for itself.

    Args:
      shares: [T, B, e] float.
      experts: [T, e, B, h] float.

    Returns:
      [T, B, h] in the experts' dtype.
    """
    return jnp.einsum("tbe,tebh->tbh", shares.astype(experts.dtype), experts)
