"""Wukong's interaction layer: factorization machine block (FMB), linear compression block (LCB), residual.

Inside, tokens are last: `[B, D, N]`. A linear map over the tokens is then one plain product
`[B*D, N] x [N, M]`, and the FM's two contractions are the batched products that every backend runs well.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.mlp import output_initializer
from wukong_jax.layers.token_maps import TokenMap, map_tokens

# The FMB: (the layer, tokens [B, D, N], the layer's context) to [B, D, n_F]. It runs inside the layer, so that its
# submodules and the parameters it asks the layer for are the layer's.
Block = Callable[[nn.Module, jax.Array, Any], jax.Array]
# A norm of [B, D, n_F + n_L]; its submodule is the layer's.
Norm = Callable[[jax.Array], jax.Array]


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


class InteractionLayer(nn.Module):
    """X' = norm(concat(FMB(X), LCB(X)) + residual + read), the residual mapped only where the token count changes.

    LCB and a mapped residual are linear in the same tokens and are added up, so their kernels are added
    first and one product does both.

    Attributes:
      fmb_tokens: n_F.
      lcb_tokens: n_L; 0 = no LCB.
      block: the FMB; None puts zeros in place of its tokens.
      norm: of the result.
      linear: the linear map over tokens.
      pads_kernel: whether an LCB without a mapped residual maps to all places, with zeros in the kernel for the first
        n_F. It costs more, and matters where a product's precision depends on all it computes (8-bit scales).
      use_lcb: False puts zeros in place of the LCB's tokens.
      use_residual: whether there is a residual.
      token_biases: whether the LCB adds a number to each token.
    """

    fmb_tokens: int
    lcb_tokens: int
    block: Block | None
    norm: Norm
    linear: TokenMap = map_tokens
    pads_kernel: bool = False
    use_lcb: bool = True
    use_residual: bool = True
    token_biases: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array, stored: Sequence[jax.Array] = (), context: Any = None) -> jax.Array:
        """Applies the layer.

        Args:
          tokens: [B, D, N].
          stored: tokens of earlier layers, each [B, D, N_i], read through a linear map that starts at zero.
          context: handed to the block: what it reads beside the tokens.

        Returns:
          [B, D, n_F + n_L] in the linear map's dtype.
        """
        made = self._linear_part(tokens)
        if self.block is not None:
            made = made + jnp.pad(self.block(self, tokens, context), ((0, 0), (0, 0), (0, self.lcb_tokens)))
        if stored:
            history = jnp.concatenate(stored, axis=2)
            kernel = self.param("read", nn.initializers.zeros_init(), (history.shape[2], made.shape[2]))
            made = made + self.linear(history, kernel)
        return self.norm(made)

    def _linear_part(self, tokens: jax.Array) -> jax.Array:
        """The residual with the LCB's tokens in the last n_L places: [B, D, n_F + n_L]."""
        count, made_tokens = tokens.shape[2], self.fmb_tokens + self.lcb_tokens
        before_lcb = (0, 0), (self.fmb_tokens, 0)
        has_lcb = self.use_lcb and self.lcb_tokens > 0
        lcb = self.param("lcb", output_initializer(), (count, self.lcb_tokens)) if has_lcb else None
        if self.use_residual and count != made_tokens:
            kernel = self.param("residual", output_initializer(), (count, made_tokens))
            made = self.linear(tokens, kernel if lcb is None else kernel + jnp.pad(lcb, before_lcb))
        else:
            made = tokens if self.use_residual else jnp.zeros((*tokens.shape[:2], made_tokens), tokens.dtype)
            if lcb is not None and self.pads_kernel:
                made = made + self.linear(tokens, jnp.pad(lcb, before_lcb))
            elif lcb is not None:
                made = made + jnp.pad(self.linear(tokens, lcb), ((0, 0), *before_lcb))
        if has_lcb and self.token_biases:
            bias = self.param("lcb_bias", nn.initializers.zeros_init(), (self.lcb_tokens,))
            made = made + jnp.pad(bias, before_lcb[1]).astype(made.dtype)
        return made
