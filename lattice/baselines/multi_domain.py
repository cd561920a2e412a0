"""Logits that depend on the domain: domain tokens, per-domain rows of a table, and selection of the row's domain."""

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
