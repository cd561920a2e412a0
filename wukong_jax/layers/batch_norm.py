"""Batch norm (arXiv 1502.03167) over the rows of the global batch, with moving averages for evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.batch_rows import counted_rows
from wukong_jax.sharding.per_device import sum_over_devices

# Flax collection of statistics of past batches, such as the moments of a batch norm. A model always reads it and
# updates it in training. The network's start logits are in it, too (`training.start_logits`), and never change.
STATISTICS = "statistics"


class BatchNorm(nn.Module):
    """y = scale * (x - mean) / sqrt(variance + epsilon) + bias, with a mean and a variance per feature.

    In training the moments are those of the batch's counted rows, and gradients flow through them; rows of weight 0,
    padding among them, do not count (`layers.batch_rows`). The batch is the global one, whatever the mesh.
    A step in microbatches (`training.microbatch`, off by default here) normalises each part by its own moments.

    At test time the moments are moving averages over batches, in the collection "statistics". An average is the plain
    mean over batches until 1 / (number of batches) falls below 1 - momentum, so that no initial value has to decay; it
    uses the unbiased variance. A batch with fewer than two counted rows leaves the averages as they are.

    Attributes:
      momentum: momentum of the moving averages.
      epsilon: added to the variance.
    """

    momentum: float = 0.9  # as in the code that published settings of these models come from
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, values: jax.Array, *, train: bool) -> jax.Array:
        """Normalises each feature over the rows.

        Args:
          values: [B, n] float; moments are float32.
          train: whether to use the batch's moments and update the moving averages.

        Returns:
          [B, n] in the dtype of `values`.
        """
        shape, exact = values.shape[1:], values.astype(jnp.float32)
        kept_mean = self.variable(STATISTICS, "mean", jnp.zeros, shape)
        kept_variance = self.variable(STATISTICS, "variance", jnp.ones, shape)
        batches = self.variable(STATISTICS, "batches", jnp.zeros, ())
        mean, variance = kept_mean.value, kept_variance.value
        if train:
            rows, mean, variance = batch_moments(exact, counted_rows(len(values)))
            if not self.is_initializing():
                enough = rows >= 2
                rate = jnp.where(enough, jnp.maximum(1 - self.momentum, 1 / (batches.value + 1)), 0)
                unbiased = variance * (rows / jnp.maximum(rows - 1, 1))
                kept_mean.value += rate * (mean - kept_mean.value)
                kept_variance.value += rate * (unbiased - kept_variance.value)
                batches.value += enough
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        return ((exact - mean) * (scale * jax.lax.rsqrt(variance + self.epsilon)) + bias).astype(values.dtype)


def batch_moments(values: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the mean and the biased variance of each feature over the counted rows.

    Args:
      values: [B, n] float32.
      counted: [B] bool.

    Returns:
      Number of counted rows [], means [n], variances [n], float32; zeros if no row counts.
    """
    share = counted[:, None].astype(jnp.float32)
    rows = sum_over_devices(share.sum())
    mean = sum_over_devices((values * share).sum(axis=0)) / jnp.maximum(rows, 1)
    # Squares of deviations: a difference of means of squares would lose all precision where the mean is large.
    variance = sum_over_devices((jnp.square(values - mean) * share).sum(axis=0)) / jnp.maximum(rows, 1)
    return rows, mean, variance
