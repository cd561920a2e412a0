"""Provides operations that depend on the domain: domain tokens, table lookup by domain, and selection by domain."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.models.shape import ModelShape


def domain_token(module: nn.Module, domain: jax.Array, shape: ModelShape) -> jax.Array:
    """Returns a learned vector of each row's domain, [B, D] in the compute dtype.

    Its initial scale of 0.1 is our choice: larger than that of embeddings (usually 0.02), because it learns with the
    lower learning rate of dense weights, and much smaller than 1, which would dominate the embeddings.

    Args:
      module: the model, in whose compact method this is called and which owns the parameter "domain_token".
      domain: [B] int32.
      shape: sizes and compute dtype.
    """
    table = module.param("domain_token", nn.initializers.normal(0.1), (shape.domains, shape.width))
    return own_domain_rows(table, domain).astype(shape.dtype)


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
