"""Dropout whose mask depends on a row's number in the batch, not on which rows are computed together.

Flax's own dropout draws one mask for the whole array, so a row's mask depends on the array's shape. A train step that
works in microbatches would then train on other masks than one that does not. Here every row draws from a key of its
own, so both are the same step.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.batch_rows import row_numbers


class Dropout(nn.Module):
    """Sets a share of the values to zero in training, and divides the others by the share that is kept.

    Attributes:
      rate: share of the values that is dropped, from 0 to below 1.
      deterministic: True returns the values unchanged.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Applies dropout (rng collection "dropout").

        Args:
          values: [b, ...] any float dtype, one entry of the first axis per row.

        Returns:
          An array of the same shape and dtype.
        """
        if self.deterministic or self.rate == 0:
            return values
        numbers = row_numbers(len(values))
        key = self.make_rng("dropout")

        def draw(number: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, number), 1 - self.rate, values.shape[1:])

        return jnp.where(jax.vmap(draw)(numbers), values / (1 - self.rate), 0).astype(values.dtype)
