"""Wukong's layer: the interaction layer with the paper's factorization machine block and norm."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.interaction import InteractionLayer, pair_tokens
from wukong_jax.layers.mlp import MLP, output_initializer
from wukong_jax.layers.norms import LayerNorm
from wukong_jax.layers.token_maps import map_tokens
from wukong_jax.models.wukong_options import AttentionOptions, WukongOptions


def build_layer(options: WukongOptions, dtype: Any, name: str | None = None) -> InteractionLayer:
    """Builds a layer, which is called with tokens [B, D, N] and, as `context`, whether dropout is on.

    Args:
      options: options of the model.
      dtype: dtype of the matrix products; parameters are float32.
      name: name of the submodule.

    Returns:
      An `InteractionLayer`.
    """
    return InteractionLayer(
        options.fmb_tokens,
        options.lcb_tokens,
        partial(_apply_block, options, dtype) if options.use_fmb else None,
        partial(_apply_norm, options),
        use_lcb=options.use_lcb,
        use_residual=options.use_residual,
        token_biases=options.token_biases,
        name=name,
    )


def _apply_block(options: WukongOptions, dtype: Any, layer: nn.Module, tokens: jax.Array, train: bool) -> jax.Array:
    return FactorizationMachineBlock(options, dtype, name="fmb")(tokens, train=train)


def _apply_norm(options: WukongOptions, made: jax.Array) -> jax.Array:
    if options.norm == "none":
        return made
    return LayerNorm((1, 2) if options.norm == "flat" else (1,), options.norm_epsilon, name="norm")(made)


class AttentiveProjection(nn.Module):
    """Y(X): the FM's projection as a function of the row.

    The paper only says that linearly compressed tokens pass through an MLP. Our choice: compress to a few tokens (so
    that the weights do not grow with N * D * N * K), layer norm over all of them (embeddings start tiny, and so would
    Y), MLP, reshape. Y starts at the size of a static projection.
    """

    rank: int
    options: AttentionOptions
    epsilon: float
    biases: bool
    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Computes the projection.

        Args:
          tokens: [B, D, N] input tokens.
          train: whether this is a training step.

        Returns:
          [B, N, K] in `dtype`.
        """
        batch, _, count = tokens.shape
        kernel = self.param("compression", output_initializer(), (count, self.options.tokens))
        flat = map_tokens(tokens, kernel).reshape(batch, -1)
        flat = LayerNorm((1,), self.epsilon, name="norm")(flat)
        mlp = MLP(self.options.hidden, count * self.rank, self.dtype, self.biases, output_scale=count**-0.5, name="mlp")
        return mlp(flat, train=train).reshape(batch, count, self.rank)


class FactorizationMachineBlock(nn.Module):
    """FMB(X) = reshape(MLP(LN(flatten(FM(X))))); pairing the inputs doubles the order of interactions."""

    options: WukongOptions
    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Applies the block.

        Args:
          tokens: [B, D, N] input tokens.
          train: whether dropout is on.

        Returns:
          [B, D, n_F] in `dtype`.
        """
        options = self.options
        batch, width, _ = tokens.shape
        flat = self._interactions(tokens, train).reshape(batch, -1)
        if options.fm_norm:
            flat = LayerNorm((1,), options.fm_norm_epsilon, name="norm")(flat)
        features = width * options.fmb_tokens
        biases, dropout, norm = options.mlp_biases, options.fmb_dropout, options.mlp_norm
        mlp = MLP(options.fmb_hidden, features, self.dtype, biases, dropout, norm=norm, name="mlp")
        made = mlp(flat, train=train).reshape(batch, width, options.fmb_tokens)
        return nn.relu(made) if options.fmb_output_activation == "relu" else made

    def _interactions(self, tokens: jax.Array, train: bool) -> jax.Array:
        """Computes FM(X)^T: [B, N, N] for the full FM, [B, K, N] otherwise."""
        options, count = self.options, tokens.shape[2]
        if options.fm == "full":
            return pair_tokens(tokens, tokens)
        if options.fm == "static":
            kernel = self.param("projection", output_initializer(), (count, options.fm_rank))
            return pair_tokens(map_tokens(tokens, kernel), tokens)
        attention = options.attention or AttentionOptions()
        projection = AttentiveProjection(
            options.fm_rank, attention, options.norm_epsilon, options.mlp_biases, self.dtype, name="projection"
        )(tokens, train=train)
        return pair_tokens(jnp.einsum("bdn,bnk->bdk", tokens, projection), tokens)
