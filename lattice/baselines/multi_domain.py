"""Logits that depend on a row's domain: its learned vector, its own line of a table, its own of many results."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.models.shape import ModelShape


def domain_token(module: nn.Module, domain: jax.Array, shape: ModelShape) -> jax.Array:
    """A learned vector that says which domain a row is of, [B, D] in the compute dtype.

    It starts above the embeddings, of which 0.02 is usual, as it learns at the dense weights' slower rate, and far
    below 1, which would drown them. Our choice.

    Args:
      module: whose parameter "domain_token" it is; this is called inside its compact method.
      domain: [B] int32.
      shape: sizes and compute dtype.
    """
    table = module.param("domain_token", nn.initializers.normal(0.1), (shape.domains, shape.width))
    return own_domain_rows(table, domain).astype(shape.dtype)


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
