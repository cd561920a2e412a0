"""Base class of the baselines: inputs from `VectorModel`, and logits that depend on the domain."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.models.outputs import Outputs
from wukong_jax.models.vector_model import VectorModel


class MultiDomainModel(VectorModel):
    """A network over a row's vectors and its domain; subclasses compute the logits in `portfolio_logits`.

    Attributes:
      options: a subclass of `VectorModelOptions`.
      shape: sizes of inputs and outputs.
    """

    @nn.compact
    def __call__(
        self,
        dense: jax.Array,
        embeddings: jax.Array,
        token_mask: jax.Array,
        domain: jax.Array,
        extras: Mapping[str, jax.Array],
        *,
        train: bool,
    ) -> Outputs:
        """Computes the logits.

        Args:
          dense: [B, F_dense] float32.
          embeddings: [B, N, D].
          token_mask: [B, N] float32, 1 = token present; absent tokens are zero vectors.
          domain: [B] int32 in [0, G).
          extras: not used.
          train: whether to apply dropout (rng collection "dropout") and update running statistics.

        Returns:
          Outputs with the logits [B, O] float32 of each row's domain, and no aux.
        """
        inputs = self.inputs(dense, embeddings * token_mask[:, :, None], train)
        filled = jnp.any(token_mask > 0, axis=1) if self.shape.tokens else jnp.ones(len(domain), bool)
        return Outputs(self.portfolio_logits(inputs, domain, filled, train).astype(jnp.float32), {})

    def portfolio_logits(self, inputs: jax.Array, domain: jax.Array, filled: jax.Array, train: bool) -> jax.Array:
        """Computes the logits; subclasses implement it, and the compact `__call__` calls it.

        Args:
          inputs: [B, n, D] in the compute dtype; n = N, or N + 1 with the dense vector first.
          domain: [B] int32.
          filled: [B] bool, rows with any token. Padding has none. All true if the model has no tokens, since padding
            cannot be detected then.
          train: whether to apply dropout and update running statistics.

        Returns:
          [B, O], any float dtype.
        """
        raise TypeError(f"{type(self).__name__}: a multi-domain model has to say its logits")

    def domain_token(self, domain: jax.Array) -> jax.Array:
        """Returns a learned vector for each row's domain, [B, D] in the compute dtype.

        Its initial scale is our choice: above that of embeddings (usually 0.02), since it is trained at the lower
        learning rate of dense weights, and far below 1, which would dominate the embeddings.
        """
        table = self.param("domain_token", nn.initializers.normal(0.1), (self.shape.domains, self.shape.width))
        return own_domain_rows(table, domain).astype(self.shape.dtype)


def own_domain_rows(table: jax.Array, domain: jax.Array) -> jax.Array:
    """Looks up each row's domain in a small table by an exact product: [G, n] and [B] int32 to [B, n] float32.

    The gradient of a gather would be a scatter of B rows into G.
    """
    own = jax.nn.one_hot(domain, len(table))
    return jnp.matmul(own, table, precision=jax.lax.Precision.HIGHEST)


def keep_own_domain(values: jax.Array, domain: jax.Array) -> jax.Array:
    """Selects from values computed for all domains those of each row's domain.

    Values for other domains, even infinite ones, have no effect and get no gradient.

    Args:
      values: [G, ..., B].
      domain: [B] int32.

    Returns:
      [..., B] in the dtype of `values`.
    """
    domains = jnp.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(domain == domains, values, 0).sum(axis=0)
