"""AutoInt+ (arXiv 1810.11921): self-attention among the vectors, combined with an MLP over the flattened vectors.

The paper (section 4.4), its authors' code and FuxiCTR differ; this implementation chooses as follows:

- Projections are linear and have no biases, as in the paper; the authors' code has biases and a ReLU after each.
- Scores are not divided by the square root of a head's width and outputs are not normalised, as in the paper. Both
  are options; the norm is before the ReLU, as in FuxiCTR (in the authors' code, after it).
- The residual is projected only if widths differ, as in the paper and FuxiCTR; the authors' code always projects it.
- `attention_dim` is the width of all heads together, as in the authors' code and FuxiCTR, and therefore in BARS (only
  this reading gives the number of parameters printed for its AutoInt+ on Frappe). The paper's d' is attention_dim /
  attention_heads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.mlp import output_initializer
from wukong_jax.layers.norms import LayerNorm
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import (
    VectorModelOptions,
    build_options,
    count_vectors,
    hidden_layers,
    input_vectors,
    output_layers,
)
from wukong_jax.ranges import AtLeast, Fraction

ATTENTION_NORM_EPSILON = 1e-12  # attention outputs are about as small as the embeddings, which may start at 1e-3


@dataclasses.dataclass(frozen=True)
class AutoIntOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.autoint:build`; the default sizes are those of the authors' code.

    For AutoInt+ on Frappe, BARS uses 5 layers, 4 heads, attention_dim 128, scale and norm, and 3 x 400 hidden units.
    """

    attention_layers: Annotated[int, AtLeast(1)] = 3
    attention_dim: Annotated[int, AtLeast(1)] = 64  # width of a layer's output vectors, all heads together
    attention_heads: Annotated[int, AtLeast(1)] = 2
    attention_residual: bool = True  # adds each layer's input, projected if its width is not attention_dim
    attention_scale: bool = False  # divides scores by the square root of a head's width
    attention_norm: bool = False  # layer norm of each output vector before its ReLU
    attention_dropout: Annotated[float, Fraction()] = 0.0  # of the attention weights
    # the "+" of AutoInt+: hidden widths of the MLP over the input vectors; empty for plain AutoInt
    deep_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400, 400)
    deep_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers
    linear_term: bool = False  # adds a linear function of the flattened input vectors to the logits

    def __post_init__(self) -> None:
        """Refuses a width that the heads do not divide, and options without effect."""
        super().__post_init__()
        if self.attention_dim % self.attention_heads:
            raise UserError(f"attention_dim = {self.attention_dim}: a multiple of attention_heads")
        narrow = self.attention_dim == self.attention_heads
        refuse_idle(self, "attention_scale", narrow, "where each head has width 1")
        if self.attention_norm and self.attention_dim == 1:
            raise UserError("attention_norm = True: attention_dim 1 leaves nothing to normalise; leave it out")


class SelfAttention(nn.Module):
    """An interacting layer: multi-head self-attention over a row's vectors, residual, ReLU.

    Attributes:
      features: width of the output vectors, a multiple of `heads`.
      heads: number of heads.
      residual: whether the input is added, see `AutoIntOptions`.
      scale: whether scores are divided by the square root of a head's width.
      norm: whether there is a layer norm before the ReLU.
      dropout: dropout rate of attention weights.
      dtype: dtype of the matrix products; parameters, scores and softmax are float32.
    """

    features: int
    heads: int
    residual: bool = True
    scale: bool = False
    norm: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
        """Applies the layer.

        Each head is projected separately, with its columns of the common kernels. On CPUs this is faster than one
        product for all heads, whose output must be split again: at B = 4096, n = 16, vectors of width 16 and 2 heads of
        width 16, forward and backward take 102 ms of processor time, compared with 124 ms for one product with products
        of heads [B, n, A] and 121 ms for `einsum` over [B, n, heads, A]; the forward pass alone takes 23 ms, compared
        with 59 and 57. Elementwise products and sums instead of the batched products take about 900 ms.

        Args:
          vectors: [B, n, inputs], any float dtype.
          train: whether dropout is on (rng collection "dropout").

        Returns:
          [B, n, features] in `dtype`.
        """
        count, inputs = vectors.shape[1:]
        vectors = vectors.astype(self.dtype)
        flat = vectors.reshape(-1, inputs)
        kernels = [self._kernel(name, inputs) for name in ("query", "key", "value")]
        width = self.features // self.heads
        mixed = []
        for head in range(self.heads):
            columns = slice(head * width, (head + 1) * width)
            query, key, value = ((flat @ kernel[:, columns]).reshape(-1, count, width) for kernel in kernels)
            scores = jnp.einsum("bna,bma->bnm", query, key).astype(jnp.float32)
            weights = nn.softmax(scores * width**-0.5 if self.scale else scores)
            weights = Dropout(self.dropout, deterministic=not train)(weights)
            mixed.append(jnp.einsum("bnm,bma->bna", weights.astype(self.dtype), value))
        made = jnp.concatenate(mixed, axis=2)
        if self.residual:
            same = inputs == self.features
            made += vectors if same else (flat @ self._kernel("residual", inputs)).reshape(made.shape)
        if self.norm:
            made = LayerNorm((2,), ATTENTION_NORM_EPSILON, name="norm")(made)
        return nn.relu(made)

    def _kernel(self, name: str, inputs: int) -> jax.Array:
        """Creates a kernel [inputs, features] in the compute dtype; must be called inside the compact `__call__`."""
        return self.param(name, output_initializer(), (inputs, self.features)).astype(self.dtype)


class AutoInt(nn.Module):
    """Attention layers, then a linear layer over all their output vectors and the MLP's last hidden layer.

    The paper adds an attention logit and an MLP logit; here one linear layer over both, concatenated, has one bias
    instead of two. An absent token is a zero vector and otherwise treated like any token: it receives attention weight
    but contributes zero, and its own attention output reaches the logits.
    """

    options: AutoIntOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        flat = vectors.reshape(vectors.shape[0], -1)
        for index in range(options.attention_layers):
            vectors = SelfAttention(
                options.attention_dim,
                options.attention_heads,
                options.attention_residual,
                options.attention_scale,
                options.attention_norm,
                options.attention_dropout,
                shape.dtype,
                name=f"attention_{index}",
            )(vectors, train=train)
        parts = [vectors.reshape(vectors.shape[0], -1)]
        if options.deep_hidden:
            deep = hidden_layers(options.deep_hidden, options, shape, name="deep", dropout=options.deep_dropout)
            parts.append(deep(flat, train=train))
        if options.linear_term:
            parts.append(flat)
        return Outputs(output_layers((), options, shape)(jnp.concatenate(parts, axis=1), train=train), {})


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `AutoIntOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      An `AutoInt`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, or a single vector, which has no
        other vector to attend to.
    """
    built = build_options(AutoIntOptions, options, shape)
    if count_vectors(shape) < 2:
        raise UserError(f"tokens = {shape.tokens}: AutoInt weighs vectors against each other; give it two at least")
    return AutoInt(built, shape)
