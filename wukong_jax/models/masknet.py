"""MaskNet (arXiv 2102.07619): layers whose inputs are multiplied by masks computed from the embeddings.

Our choices where the paper gives no details: the masks' kernels are scaled by their fan-in and all biases start at
zero. A mask therefore starts as zero-mean noise of the embeddings' size, and the norm of its block removes this scale.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer
from wukong_jax.layers.norms import LayerNorm, normalize
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import (
    EMBEDDING_NORM_EPSILON,
    VectorModelOptions,
    build_options,
    input_vectors,
    output_layers,
)
from wukong_jax.ranges import Above, AtLeast, Fraction

# Without the norm of the tokens, a masked value is a product of two embeddings, so its variance is proportional to the
# fourth power of their scale (1e-12 at scale 1e-3).
BLOCK_NORM_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class MaskNetOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.masknet:build`; the default sizes are FuxiCTR's.

    *Norms.* Every block has a layer norm (section 3.3). `mlp_norm` only applies to the hidden layers of the head: in
    the paper, neither these nor the masks' aggregation layers have a norm. The best settings of the BARS benchmark on
    both Frappe and MovieLens have no `token_norm`.

    *Biases.* `mlp_biases` also applies to the masks' two layers. A block's layer has no bias besides that of its norm
    (equation 12).

    *Head.* The paper's serial network ends in a linear layer (no `head_hidden`); the parallel one has hidden layers.
    """

    structure: Literal["serial", "parallel"] = "serial"  # blocks one after the other, or all over the embeddings
    # output width of each block; at least 2, because the norm of a single number is zero
    block_widths: Annotated[tuple[int, ...], AtLeast(2)] = (400, 400, 400)
    # r: width of a mask's aggregation layer divided by the masked width; the paper uses 2
    reduction_ratio: Annotated[float, Above(0)] = 1.0
    token_norm: bool = True  # layer norm of each vector, with its own scale and bias, before the first mask
    block_dropout: Annotated[float, Fraction()] = 0.0  # after each block
    head_hidden: Annotated[tuple[int, ...], AtLeast(1)] = ()  # hidden widths of the MLP after the blocks
    head_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers

    def __post_init__(self) -> None:
        """Refuses a network without blocks, and options without effect."""
        super().__post_init__()
        if not self.block_widths:
            raise UserError("block_widths = []: at least one block; give it a width")


class MaskNet(nn.Module):
    """Blocks relu(LN(W (mask_i(V) * x))) over the flattened vectors V; logits.

    For parallel blocks and the first serial block, x is LN(V), normalised vector by vector; for later serial blocks, x
    is the output of the previous block. mask_i(V) = W_2 relu(W_1 V + b_1) + b_2 has the width of x (equation 5).
    """

    options: MaskNetOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        normed = VectorNorm(name="token_norm")(vectors) if options.token_norm else vectors
        first = normed.reshape(vectors.shape[0], -1)
        parallel = options.structure == "parallel"
        widths = options.block_widths
        masked_widths = [first.shape[1]] * len(widths) if parallel else [first.shape[1], *widths[:-1]]
        guides = self._aggregate(vectors.reshape(first.shape), masked_widths)
        made: list[jax.Array] = []
        for index, guide in enumerate(guides):
            source = first if parallel or not made else made[-1]
            made.append(self._block(index, guide, source, train))
        last = jnp.concatenate(made, axis=1) if parallel else made[-1]
        return Outputs(
            output_layers(options.head_hidden, options, shape, dropout=options.head_dropout)(last, train=train), {}
        )

    def _aggregate(self, flat: jax.Array, masked_widths: list[int]) -> list[jax.Array]:
        """Applies the aggregation layers of all masks; each output is [B, width].

        All of them read the embeddings, so one product computes them all. Compared with one product per block, forward
        and backward of 4 parallel blocks on two busy CPU cores at B = 4096 and n * D = 256 (minimum of 12) take the
        same time for masks of 256 values, 100 ms instead of 124 for 25 values, and 73 to 86 instead of 88 for 12.
        Batching the later products of the blocks as well is a fifth to four fifths slower.
        """
        widths = [max(1, int(self.options.reduction_ratio * width)) for width in masked_widths]
        made = nn.relu(self._linear(sum(widths), "aggregation", HIDDEN_INITIALIZER)(flat))
        ends = [sum(widths[: index + 1]) for index in range(len(widths) - 1)]
        return jnp.split(made, ends, axis=1)

    def _block(self, index: int, guide: jax.Array, source: jax.Array, train: bool) -> jax.Array:
        """Applies one MaskBlock to [B, aggregation] and the masked vector [B, width]; returns [B, block width]."""
        options, dtype = self.options, self.shape.dtype
        mask = self._linear(source.shape[1], f"projection_{index}", output_initializer())(guide)
        made = nn.Dense(
            options.block_widths[index],
            use_bias=False,
            dtype=dtype,
            kernel_init=HIDDEN_INITIALIZER,
            name=f"block_{index}",
        )(mask * source)
        made = nn.relu(LayerNorm((1,), BLOCK_NORM_EPSILON, name=f"block_norm_{index}")(made))
        return Dropout(options.block_dropout, deterministic=not train)(made)

    def _linear(self, features: int, name: str, initializer: nn.initializers.Initializer) -> nn.Dense:
        biases, dtype = self.options.mlp_biases, self.shape.dtype
        return nn.Dense(features, use_bias=biases, dtype=dtype, kernel_init=initializer, name=name)


class VectorNorm(nn.Module):
    """Layer norm over the D coordinates of each vector, with a scale and a bias per vector and coordinate (eq. 9)."""

    @nn.compact
    def __call__(self, vectors: jax.Array) -> jax.Array:
        """Normalises.

        Args:
          vectors: [B, n, D], any float dtype; statistics are float32.

        Returns:
          An array of the same shape and dtype; a zero vector becomes its bias.
        """
        count, width = vectors.shape[1:]
        scale = self.param("scale", nn.initializers.ones_init(), (count, width))
        bias = self.param("bias", nn.initializers.zeros_init(), (count, width))
        ones, zeros = jnp.ones((1, 1, width)), jnp.zeros((1, 1, width))
        normal = normalize(vectors, ones, zeros, axes=(2,), epsilon=EMBEDDING_NORM_EPSILON)
        return (normal * scale + bias).astype(vectors.dtype)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `MaskNetOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `MaskNet`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, or `token_norm` with vectors of
        width 1, whose norm is zero.
    """
    built = build_options(MaskNetOptions, options, shape)
    if built.token_norm and shape.width == 1:
        raise UserError(
            "config.model.options.token_norm = True: leaves zero of embeddings of width 1; turn it off or widen them"
        )
    return MaskNet(built, shape)
