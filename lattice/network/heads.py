"""Task modules: a small MLP per objective, or per portfolio, over the flattened backbone output."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.network.dense import Dense, LayerSettings, multiply_in_precision
from lattice.network.norms import normalise_and_activate
from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer

# Logits start near zero, so that early steps fit the embeddings and not the noise of a random output layer.
_OUTPUT_SCALE = 0.01


class Heads(nn.Module):
    """One hidden layer and one logit per objective; every row is scored for its domain.

    The hidden layers of all objectives are computed with one product. Each logit has a bias, even if layers have none:
    one number per portfolio stores its base rate; it is part of no product and never rounded (our choice).

    Attributes:
      objectives: O.
      hidden: units of each objective's hidden layer; 0 for no hidden layer.
      settings: settings of all layers.
      untied: whether each domain has separate heads.
      dropout: dropout rate after the hidden layer.
    """

    objectives: int
    hidden: int
    settings: LayerSettings
    untied: bool
    dropout: float

    @nn.compact
    def __call__(self, features: jax.Array, domain: jax.Array, *, train: bool) -> jax.Array:
        """Computes the logits.

        Args:
          features: [B, n] float.
          domain: [B] int32.
          train: whether dropout is on.

        Returns:
          [B, O] float32.
        """
        settings, objectives = self.settings, self.objectives
        if not self.hidden:
            made = Dense(
                objectives,
                dataclasses.replace(settings, biases=False),
                self.untied,
                output_initializer(_OUTPUT_SCALE),
                name="output",
            )(features, domain)
            return made.astype(jnp.float32) + self._biases(domain)
        layer = Dense(objectives * self.hidden, settings, self.untied, HIDDEN_INITIALIZER, name="hidden")
        made = layer(features, domain).reshape(-1, objectives, self.hidden)
        made = normalise_and_activate(settings.norm, made, "hidden_norm")
        made = Dropout(self.dropout, deterministic=not train)(made)
        return self._read_out(made, domain).astype(jnp.float32) + self._biases(domain)

    def _read_out(self, hidden: jax.Array, domain: jax.Array) -> jax.Array:
        """Maps [B, O, h] to [B, O], with h weights per objective (and per domain if untied)."""
        settings = self.settings
        domains = settings.domains if self.untied else 1
        kernel = self.param("output", _init_read_out, (domains, self.objectives, self.hidden))
        if domains == 1:
            return jnp.sum(hidden * kernel[0].astype(hidden.dtype), axis=2)
        exact = dataclasses.replace(settings, float8="none")  # only selects a row's weights, so no rounding
        own = multiply_in_precision(jax.nn.one_hot(domain, domains), kernel.reshape(domains, -1), exact)
        return jnp.sum(hidden * own.reshape(hidden.shape), axis=2)

    def _biases(self, domain: jax.Array) -> jax.Array:
        shape = (self.settings.domains, self.objectives)
        bias = self.param("logit_bias", nn.initializers.zeros_init(), shape)
        return jax.nn.one_hot(domain, shape[0]) @ bias


def _init_read_out(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    return _OUTPUT_SCALE * shape[-1] ** -0.5 * jax.random.truncated_normal(key, -2, 2, shape, dtype)
