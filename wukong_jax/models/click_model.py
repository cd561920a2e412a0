"""The one call that all models have; a model says what logits it makes of a row."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape


class ClickModel(nn.Module):
    """A model that looks at dense columns and embeddings alone, and has nothing to say but logits.

    Attributes:
      options: the model's own.
      shape: sizes of inputs and outputs.
    """

    options: Any
    shape: ModelShape

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
          domain: [B] int32, not used.
          extras: not used.
          train: whether dropout is on (rng collection "dropout").

        Returns:
          Outputs with logits [B, O] float32 and no aux.
        """
        logits = self.row_logits(dense, embeddings * token_mask[:, :, None], train)
        return Outputs(logits.astype(jnp.float32), {})

    def row_logits(self, dense: jax.Array, embeddings: jax.Array, train: bool) -> jax.Array:
        """What a model is, called inside the compact `__call__`.

        Args:
          dense: [B, F_dense] float32.
          embeddings: [B, N, D], zeros for absent tokens.
          train: whether dropout is on.

        Returns:
          [B, O], any float dtype.
        """
        raise TypeError(f"{type(self).__name__}: a model has to say its logits")
