"""What all of these baselines share: vectors as `VectorModel` makes them, and logits that depend on the domain."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.models.outputs import Outputs
from wukong_jax.models.vector_model import VectorModel


class MultiDomainModel(VectorModel):
    """A network over a row's vectors and its domain; a subclass says what logits it makes of them.

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
          token_mask: [B, N] float32, 1 = token present; absent ones count as zero vectors.
          domain: [B] int32 in [0, G).
          extras: not used.
          train: whether dropout is on (rng collection "dropout"), and running statistics are written.

        Returns:
          Outputs with logits [B, O] float32, each row's for its own domain, and no aux.
        """
        inputs = self.inputs(dense, embeddings * token_mask[:, :, None], train)
        filled = jnp.any(token_mask > 0, axis=1) if self.shape.tokens else jnp.ones(len(domain), bool)
        return Outputs(self.portfolio_logits(inputs, domain, filled, train).astype(jnp.float32), {})

    def portfolio_logits(self, inputs: jax.Array, domain: jax.Array, filled: jax.Array, train: bool) -> jax.Array:
        """What a model is, called inside the compact `__call__`.

        Args:
          inputs: [B, n, D] in the compute dtype; n = N, or N + 1 with the dense vector first.
          domain: [B] int32.
          filled: [B] bool, rows with any token. Padding has none; where there are no tokens at all it cannot be told.
          train: whether dropout is on, and running statistics are written.

        Returns:
          [B, O], any float dtype.
        """
        raise TypeError(f"{type(self).__name__}: a multi-domain model has to say its logits")

    def domain_token(self, domain: jax.Array) -> jax.Array:
        """A learned vector that says which domain a row is of, [B, D] in the compute dtype.

        It starts above the embeddings, of which 0.02 is usual, as it learns at the dense weights' slower rate, and far
        below 1, which would drown them. Our choice.
        """
        table = self.param("domain_token", nn.initializers.normal(0.1), (self.shape.domains, self.shape.width))
        return own_domain_rows(table, domain).astype(self.shape.dtype)


def own_domain_rows(table: jax.Array, domain: jax.Array) -> jax.Array:
    """Each row's own line of a small table, by a product that is exact: [G, n] and [B] int32 to [B, n] float32.

    A gather's gradient would be a scatter of B rows into G.
    """
    own = jax.nn.one_hot(domain, len(table))
    return jnp.matmul(own, table, precision=jax.lax.Precision.HIGHEST)


def keep_own_domain(values: jax.Array, domain: jax.Array) -> jax.Array:
    """Of what was made for all domains, what each row's own gives.

    What other domains make of a row is never looked at, be it infinite, and gets no gradient.

    Args:
      values: [G, ..., B].
      domain: [B] int32.

    Returns:
      [..., B] in their dtype.
    """
    domains = jnp.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(domain == domains, values, 0).sum(axis=0)
