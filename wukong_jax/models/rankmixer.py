"""RankMixer (arXiv 2507.15551): a few wide tokens that exchange parts without weights, with an MLP for each token.

Section 3 describes the dense model. Its sparse mixture of experts is not built. Our choices where the paper is silent:

- The embeddings are taken in the order of the tables, not grouped by meaning. They are filled up with zeros if T does
  not divide their n * D values, so that the last slice is padded.
- Every slice has a linear map with bias of its own, as UniMixer (arXiv 2604.00590) restates it.
- The ratio k of the per-token MLPs is not printed; its default 2 is that of public implementations.
- The head after the mean of the tokens is one linear layer by default.
- A kernel's fan-in is that of its own token, for which frameworks mistake the first axis of a stack of kernels.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.layers.norms import LayerNorm
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import (
    VectorModelOptions,
    build_options,
    count_vectors,
    input_vectors,
    output_layers,
)
from wukong_jax.ranges import AtLeast, Fraction

TOKEN_NORM_EPSILON = 1e-12  # tokens start about as small as the embeddings, which may start at 1e-3


@dataclasses.dataclass(frozen=True)
class RankMixerOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.rankmixer:build`.

    The paper's 100M model has 16 tokens of width 768 and two blocks, its 1B model 32 of width 1536. It prefers width to
    depth (section 4.4).
    """

    mixer_tokens: Annotated[int, AtLeast(2)] = 8  # T, also the number of parts that a token is cut into
    token_width: Annotated[int, AtLeast(2)] = 64  # a multiple of T
    blocks: Annotated[int, AtLeast(1)] = 2
    ffn_ratio: Annotated[int, AtLeast(1)] = 2  # k: hidden width of a token's MLP, as a multiple of token_width
    head_hidden: Annotated[tuple[int, ...], AtLeast(1)] = ()  # hidden widths of the MLP after the mean of the tokens
    head_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers

    def __post_init__(self) -> None:
        """Refuses a width that the parts do not divide."""
        super().__post_init__()
        check_parts(self.token_width, self.mixer_tokens)


class PerTokenLinear(nn.Module):
    """A linear map with weights of its own for each token.

    Attributes:
      features: width of the outputs.
      initializer: of the kernel, whose fan-in is the width of the inputs.
      dtype: dtype of the matrix product; parameters are float32.
    """

    features: int
    initializer: nn.initializers.Initializer
    dtype: Any = jnp.float32

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps [T, B, inputs], any float dtype, to [T, B, features] in `dtype`."""
        count, _, inputs = tokens.shape
        kernel = self.param("kernel", self.initializer, (count, inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (count, 1, self.features))
        return tokens.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def mix_tokens(tokens: jax.Array) -> jax.Array:
    """Cuts every token into T parts; the new token number h is made of part h of all tokens (section 3.3.1).

    It has no weights, and applied twice it changes nothing.

    Args:
      tokens: [T, B, W], W a multiple of T.

    Returns:
      [T, B, W].
    """
    count, batch, width = tokens.shape
    parts = tokens.reshape(count, batch, count, width // count)  # [token, row, part, W / T]
    return parts.swapaxes(0, 2).reshape(tokens.shape)


class RankMixer(nn.Module):
    """Slices of the flattened vectors as tokens X, blocks over them, and the mean of the tokens; logits.

    A block is S = LN(Mix(X) + X), X' = LN(PFFN(S) + S), with PFFN(s_t) = W2_t GELU(W1_t s_t + b1_t) + b2_t.
    """

    options: RankMixerOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, dtype = self.options, self.shape.dtype
        tokens = cut_into_slices(input_vectors(inputs, options, self.shape, train=train), options.mixer_tokens)
        linear = token_initializer(1.0)
        tokens = PerTokenLinear(options.token_width, linear, dtype, name="tokens")(tokens)
        for index in range(options.blocks):
            mixed = LayerNorm((2,), TOKEN_NORM_EPSILON, name=f"mixed_norm_{index}")(mix_tokens(tokens) + tokens)
            hidden = PerTokenLinear(
                options.ffn_ratio * options.token_width, token_initializer(2.0), dtype, name=f"ffn_{index}"
            )
            made = PerTokenLinear(options.token_width, linear, dtype, name=f"ffn_output_{index}")(
                nn.gelu(hidden(mixed), approximate=False)
            )
            tokens = LayerNorm((2,), TOKEN_NORM_EPSILON, name=f"ffn_norm_{index}")(made + mixed)
        head = output_layers(options.head_hidden, options, self.shape, dropout=options.head_dropout)
        return Outputs(head(tokens.mean(0), train=train), {})


def cut_into_slices(vectors: jax.Array, count: int) -> jax.Array:
    """Cuts [B, n, D], flattened and filled up with zeros, into equal slices: [count, B, ceil(n * D / count)]."""
    flat = vectors.reshape(vectors.shape[0], -1)
    width = math.ceil(flat.shape[1] / count)
    padded = jnp.pad(flat, ((0, 0), (0, count * width - flat.shape[1])))
    return padded.reshape(flat.shape[0], count, width).swapaxes(0, 1)


def token_initializer(scale: float) -> nn.initializers.Initializer:
    """Returns a kernel initialiser [T, inputs, features] whose variance is `scale` by a token's inputs."""
    return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal", batch_axis=(0,))


def check_parts(width: int, tokens: int) -> None:
    """Raises UserError if a token cannot be cut into as many equal parts as there are tokens."""
    if width % tokens:
        raise UserError(
            f"token_width = {width}: is cut into mixer_tokens = {tokens} equal parts; give a multiple of it"
        )


def check_slices(tokens: int, slices: int, shape: ModelShape) -> None:
    """Raises UserError if a slice would be padding alone."""
    values = count_vectors(shape) * shape.width
    if math.ceil(values / slices) * (slices - 1) >= values:
        raise UserError(
            f"config.model.options.mixer_tokens = {tokens}: the {values} values of a row's vectors do not fill so many "
            "slices; give fewer"
        )


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `RankMixerOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `RankMixer`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, or more tokens than input values.
    """
    built = build_options(RankMixerOptions, options, shape)
    check_slices(built.mixer_tokens, built.mixer_tokens, shape)
    return RankMixer(built, shape)
