"""TokenMixer-Large (arXiv 2602.06563): token mixing that is undone within each block, gated MLPs for each token.

It mends a fault of RankMixer (`rankmixer.py`), whose residual adds tokens that mean different things before and after
mixing. Built is the dense model without its auxiliary loss and mixture of experts. Our choices where notes on
the paper disagree or are silent:

- Norms come first (the text says so; the printed equations have them last): H = Mix(X), H' = H + F(RMS(H)),
  X' = X + F'(RMS(Mix(H'))). With as many parts as tokens, mixing undoes itself.
- The tokens before the first block are linear maps of slices of the flattened vectors, as RankMixer's, so that the two
  differ in their blocks alone; one more token, the global one, is a linear map of all of them.
- The head reads the global token after a last norm.
- The output kernels of the MLPs start at a hundredth of the usual size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.layers.norms import RMSNorm
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.rankmixer import (
    TOKEN_NORM_EPSILON,
    PerTokenLinear,
    check_parts,
    check_slices,
    cut_into_slices,
    mix_tokens,
    token_initializer,
)
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import VectorModelOptions, build_options, input_vectors, output_layers
from wukong_jax.ranges import AtLeast, Fraction

OUTPUT_GAIN = 0.01


@dataclasses.dataclass(frozen=True)
class TokenMixerOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.tokenmixer:build`; the paper's sizes are not known."""

    mixer_tokens: Annotated[int, AtLeast(2)] = 8  # T, with the global one; also the number of parts of a token
    token_width: Annotated[int, AtLeast(2)] = 64  # a multiple of T
    blocks: Annotated[int, AtLeast(1)] = 2
    ffn_width: Annotated[int, AtLeast(1)] = 64  # hidden width of each gated MLP
    skip_every: Annotated[int, AtLeast(0)] = 0  # adds the tokens of so many blocks before; 0: never
    head_hidden: Annotated[tuple[int, ...], AtLeast(1)] = ()  # hidden widths of the MLP after the global token
    head_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers

    def __post_init__(self) -> None:
        """Refuses a width that the parts do not divide, and a skip that no block ends."""
        super().__post_init__()
        check_parts(self.token_width, self.mixer_tokens)
        if self.skip_every and self.skip_every >= self.blocks:
            raise UserError(f"skip_every = {self.skip_every}: below blocks = {self.blocks}, or 0 for no skips")


class PerTokenSwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) with weights of its own for each token.

    Attributes:
      hidden: width between.
      dtype: dtype of the matrix products; parameters are float32.
    """

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps [T, B, W], any float dtype, to the same shape in `dtype`."""
        start = token_initializer(1.0)
        gate = PerTokenLinear(self.hidden, start, self.dtype, name="gate")(tokens)
        up = PerTokenLinear(self.hidden, start, self.dtype, name="up")(tokens)
        small = token_initializer(OUTPUT_GAIN**2)
        return PerTokenLinear(tokens.shape[-1], small, self.dtype, name="down")(nn.silu(gate) * up)


class TokenMixer(nn.Module):
    """Slices and a global token, blocks over them, and a head over the global token; logits."""

    options: TokenMixerOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, dtype = self.options, self.shape.dtype
        vectors = input_vectors(inputs, options, self.shape, train=train)
        slices = cut_into_slices(vectors, options.mixer_tokens - 1)
        width, start = options.token_width, token_initializer(1.0)
        whole = PerTokenLinear(width, start, dtype, name="global")(vectors.reshape(1, vectors.shape[0], -1))
        tokens = jnp.concatenate([whole, PerTokenLinear(width, start, dtype, name="tokens")(slices)])
        kept = tokens
        for index in range(options.blocks):
            mixed = mix_tokens(tokens)
            mixed = mixed + self._ffn(mixed, f"mixed_{index}")
            tokens = tokens + self._ffn(mix_tokens(mixed), f"reverted_{index}")
            if options.skip_every and (index + 1) % options.skip_every == 0 and index + 1 < options.blocks:
                tokens = kept = tokens + kept
        head = output_layers(options.head_hidden, options, self.shape, dropout=options.head_dropout)
        last = RMSNorm((1,), TOKEN_NORM_EPSILON, name="last_norm")(tokens[0])
        return Outputs(head(last, train=train), {})

    def _ffn(self, tokens: jax.Array, name: str) -> jax.Array:
        normed = RMSNorm((2,), TOKEN_NORM_EPSILON, name=f"{name}_norm")(tokens)
        return PerTokenSwiGLU(self.options.ffn_width, self.shape.dtype, name=f"{name}_ffn")(normed)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `TokenMixerOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `TokenMixer`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, or more slices than input values.
    """
    built = build_options(TokenMixerOptions, options, shape)
    check_slices(built.mixer_tokens, built.mixer_tokens - 1, shape)
    return TokenMixer(built, shape)
