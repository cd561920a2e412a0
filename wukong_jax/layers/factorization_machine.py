"""Wukong's interaction layer: factorization machine block (FMB), linear compression block (LCB), residual.

Inside, tokens are last: `[B, D, N]`. A linear map over the tokens is then one plain product
`[B*D, N] x [N, M]`, and the FM's two contractions are the batched products that every backend runs well.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.layer_norm import LayerNorm
from wukong_jax.layers.mlp import MLP, output_initializer
from wukong_jax.models.wukong_options import AttentionOptions, WukongOptions


def map_tokens(tokens: jax.Array, kernel: jax.Array) -> jax.Array:
    """Mixes tokens linearly, the same for each of the D coordinates.

    Written as a flat product: XLA:CPU runs the backward of the same contraction four times slower when it has
    two batch-like axes (52 ms against 12 ms at B = 4096, N = 32, D = 32, M = 88 on two cores).

    Args:
      tokens: [B, D, N].
      kernel: [N, M].

    Returns:
      [B, D, M] in the tokens' dtype.
    """
    batch, width, count = tokens.shape
    product = tokens.reshape(batch * width, count) @ kernel.astype(tokens.dtype)
    return product.reshape(batch, width, kernel.shape[1])


def pair_tokens(left: jax.Array, right: jax.Array) -> jax.Array:
    """Dot products over D of every left with every right token.

    With D as the first free axis of both operands XLA:CPU spends 7 ms forward and 8 ms backward at B = 4096,
    N = 32, K = 24, D = 32 on two cores; the same sum as an elementwise product with a reduction (batch last, to
    vectorise over it) takes from 8 to 600 ms forward and 200 to 800 ms backward.

    Args:
      left: [B, D, K].
      right: [B, D, N].

    Returns:
      [B, K, N] in their dtype.
    """
    return jnp.einsum("bdk,bdn->bkn", left, right)


class AttentiveProjection(nn.Module):
    """Y(X): the FM's projection as a function of the row.

    The paper says only that linearly compressed tokens pass through an MLP. Ours: compress to a few tokens (so that the
    weights do not grow with N * D * N * K), layer norm over them all (embeddings start tiny, and Y would be as
    tiny), MLP, reshape; Y starts at the size of a static one.
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
          tokens: [B, D, N].
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
    """FMB(X) = reshape(MLP(LN(flatten(FM(X))))); orders that enter are paired, so the order doubles."""

    options: WukongOptions
    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Applies the block.

        Args:
          tokens: [B, D, N].
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
        mlp = MLP(options.fmb_hidden, features, self.dtype, options.mlp_biases, options.fmb_dropout, name="mlp")
        made = mlp(flat, train=train).reshape(batch, width, options.fmb_tokens)
        return nn.relu(made) if options.fmb_output_activation == "relu" else made

    def _interactions(self, tokens: jax.Array, train: bool) -> jax.Array:
        """FM(X)^T: [B, N, N] for the full FM, [B, K, N] otherwise."""
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


class InteractionLayer(nn.Module):
    """X' = LN(concat(FMB(X), LCB(X)) + residual), the residual mapped only where the token count changes.

    LCB and a mapped residual are linear in the same tokens and are added up, so their kernels are added
    first and one product does both.
    """

    options: WukongOptions
    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool) -> jax.Array:
        """Applies the layer.

        Args:
          tokens: [B, D, N].
          train: whether dropout is on.

        Returns:
          [B, D, n_F + n_L] in `dtype`.
        """
        options = self.options
        made = self._linear_part(tokens)
        if options.use_fmb:
            block = FactorizationMachineBlock(options, self.dtype, name="fmb")(tokens, train=train)
            made = made + jnp.pad(block, ((0, 0), (0, 0), (0, options.lcb_tokens)))
        if options.norm == "none":
            return made
        return LayerNorm((1, 2) if options.norm == "flat" else (1,), options.norm_epsilon, name="norm")(made)

    def _linear_part(self, tokens: jax.Array) -> jax.Array:
        """The residual with the LCB's tokens in the last n_L places: [B, D, n_F + n_L]."""
        options, count = self.options, tokens.shape[2]
        before_lcb = (0, 0), (options.fmb_tokens, 0)
        has_lcb = options.use_lcb and options.lcb_tokens > 0
        lcb = self.param("lcb", output_initializer(), (count, options.lcb_tokens)) if has_lcb else None
        if options.use_residual and count != options.layer_tokens:
            kernel = self.param("residual", output_initializer(), (count, options.layer_tokens))
            made = map_tokens(tokens, kernel if lcb is None else kernel + jnp.pad(lcb, before_lcb))
        else:
            made = (
                tokens if options.use_residual else jnp.zeros((*tokens.shape[:2], options.layer_tokens), tokens.dtype)
            )
            if lcb is not None:
                made = made + jnp.pad(map_tokens(tokens, lcb), ((0, 0), *before_lcb))
        if has_lcb and options.token_biases:
            bias = self.param("lcb_bias", nn.initializers.zeros_init(), (options.lcb_tokens,))
            made = made + jnp.pad(bias, before_lcb[1]).astype(made.dtype)
        return made
