"""Partitioned normalisation (STAR, arXiv 2101.11427): batch norm with moments, scales and biases for each domain."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.multi_domain import own_domain_rows
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.sharding.per_device import sum_over_devices


class PartitionedNorm(nn.Module):
    """z = (x - mean_p) / sqrt(variance_p + epsilon); y = scale * scale_p * z + bias + bias_p, for a row of domain p.

    In training the moments are those of the batch's rows of domain p, and gradients flow through them. At test time
    they are moving averages over batches, stored in the collection "statistics".

    In the paper each batch comes from one domain, here from all. A domain with fewer than two counted rows in a batch
    therefore keeps its averages, and a single row is normalised to zero: batches must be large enough for the rarest
    domain. A moving average is the plain mean over batches until 1 / (number of batches) falls below 1 - momentum, so
    that no initial value has to decay; it uses the unbiased variance. All of this is our choice.

    The caller chooses which rows count. Models do not see row weights, so of rows with weight 0 only padding can be
    left out.

    Attributes:
      domains: G.
      momentum: momentum of the moving averages.
      epsilon: added to the variance. A smaller value would blow up a feature that is constant in a domain's training
        rows but varies at test time.
    """

    domains: int
    momentum: float
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, values: jax.Array, domain: jax.Array, counted: jax.Array, *, train: bool) -> jax.Array:
        """Normalises the values of each domain.

        Args:
          values: [B, n] float; moments are float32.
          domain: [B] int32.
          counted: [B] bool, rows that count in the moments.
          train: whether to use the batch's moments and update the moving averages.

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
    """Computes the mean and variance over the rows of each domain.

    Args:
      values: [B, n] float32.
      domain: [B] int32.
      counted: [B] bool, rows that count.
      domains: G.

    Returns:
      Numbers of counted rows [G], means [G, n] and biased variances [G, n]; zeros for domains without rows.
    """
    own = jax.nn.one_hot(domain, domains) * counted[:, None]
    rows = sum_over_devices(own.sum(axis=0))
    shares = own / jnp.maximum(rows, 1)
    mean = sum_over_devices(jnp.matmul(shares.T, values, precision=jax.lax.Precision.HIGHEST))
    # Squares of deviations are exact enough; E[x^2] - E[x]^2 would lose precision by cancellation.
    deviation = values - own_domain_rows(mean, domain)
    squares = jnp.matmul(shares.T, jnp.square(deviation), precision=jax.lax.Precision.HIGHEST)
    return rows, mean, sum_over_devices(squares)
