"""Partitioned normalisation: batch norm with moments, scales and biases of each domain (STAR, arXiv 2101.11427)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.multi_domain import own_domain_rows
from wukong_jax.models.outputs import STATISTICS


class PartitionedNorm(nn.Module):
    """z = (x - mean_p) / sqrt(variance_p + epsilon); y = scale * scale_p * z + bias + bias_p, for a row of domain p.

    In training the moments are those of the batch's rows of domain p, and gradients pass through them; at test time
    they are moving averages over batches, in the collection "statistics".

    The paper's batches come from one domain each, ours from all. So a domain with fewer than two counted rows in a
    batch keeps its averages, and one row alone is normalised to zero: batches have to be large for the rarest domain. A
    moving average is the plain mean of the first batches, until 1 / (their number) falls below 1 - momentum, so that no
    made-up start has to fade; it takes the unbiased variance. All of this is our choice.

    Rows are counted as the caller says. No model sees weights: of rows of weight 0, only padding can be left out.

    Attributes:
      domains: G.
      momentum: of the moving averages.
      epsilon: added to the variance. Not smaller: a number that never moved in a domain's training rows would be
        blown up where it moves at test time.
    """

    domains: int
    momentum: float
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, values: jax.Array, domain: jax.Array, counted: jax.Array, *, train: bool) -> jax.Array:
        """Normalises.

        Args:
          values: [B, n] float; moments are float32.
          domain: [B] int32.
          counted: [B] bool, rows that the moments are taken of.
          train: whether to use the batch's moments, and write the moving averages.

        Returns:
          [B, n] in the dtype of `values`.
        """
        shape, exact = (self.domains, values.shape[1]), values.astype(jnp.float32)
        kept = {name: self.variable(STATISTICS, name, init, shape) for name, init in _MOMENTS.items()}
        batches = self.variable(STATISTICS, "batches", jnp.zeros, shape[:1])
        mean, variance = kept["mean"].value, kept["variance"].value
        if train:
            rows, mean, variance = domain_moments(exact, domain, counted, self.domains)
            if not self.is_initializing():
                enough = rows >= 2
                rate = jnp.where(enough, jnp.maximum(1 - self.momentum, 1 / (batches.value + 1)), 0)[:, None]
                unbiased = variance * (rows / jnp.maximum(rows - 1, 1))[:, None]
                kept["mean"].value += rate * (mean - kept["mean"].value)
                kept["variance"].value += rate * (unbiased - kept["variance"].value)
                batches.value += enough
        scale = self.param("scale", nn.initializers.ones_init(), shape[1:])
        domain_scale = self.param("domain_scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape[1:])
        domain_bias = self.param("domain_bias", nn.initializers.zeros_init(), shape)
        gain = scale * domain_scale * jax.lax.rsqrt(variance + self.epsilon)
        own = own_domain_rows(jnp.concatenate([mean, gain, bias + domain_bias], axis=1), domain)
        own_mean, own_gain, own_bias = jnp.split(own, 3, axis=1)
        return ((exact - own_mean) * own_gain + own_bias).astype(values.dtype)


_MOMENTS = {"mean": jnp.zeros, "variance": jnp.ones}  # before any batch


def domain_moments(
    values: jax.Array, domain: jax.Array, counted: jax.Array, domains: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and variance of the rows of each domain.

    Args:
      values: [B, n] float32.
      domain: [B] int32.
      counted: [B] bool, rows to take.
      domains: G.

    Returns:
      Numbers of rows taken [G], means [G, n] and biased variances [G, n], zeros where there are no rows.
    """
    own = jax.nn.one_hot(domain, domains) * counted[:, None]
    rows = own.sum(axis=0)
    shares = own / jnp.maximum(rows, 1)
    mean = jnp.matmul(shares.T, values, precision=jax.lax.Precision.HIGHEST)
    # squares of deviations, not a difference of means, which rounding would swamp
    deviation = values - own_domain_rows(mean, domain)
    return rows, mean, jnp.matmul(shares.T, jnp.square(deviation), precision=jax.lax.Precision.HIGHEST)
