"""The inputs of every model."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class ModelInputs(NamedTuple):
    """The inputs from which a model computes its logits."""

    dense: jax.Array  # [B, F_dense] float32
    embeddings: jax.Array  # [B, N, D]
    token_mask: jax.Array  # [B, N] float32, 1 if the token is present
    domain: jax.Array  # [B] int32 in [0, G)
    extras: Mapping[str, jax.Array]  # columns joined to the rows, [B, width] float32 each

    @property
    def present_embeddings(self) -> jax.Array:
        """The embeddings with zero vectors for absent tokens, [B, N, D]."""
        return self.embeddings * self.token_mask[:, :, None]
