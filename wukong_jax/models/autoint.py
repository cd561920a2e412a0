"""AutoInt+ (arXiv 1810.11921): self-attention among the vectors, beside an MLP over the flattened ones.

What differs between the paper (section 4.4), its authors' code and FuxiCTR, and what stands here:

- Projections are linear and have no biases, as in the paper; the authors' code has biases and a ReLU after each.
- Scores are not divided by the square root of a head's width and outputs are not normalised, as in the paper. Both
  are options; the norm stands before the ReLU, as in FuxiCTR (the authors' code has it behind).
- The residual is projected only where widths differ, as in the paper and FuxiCTR; the authors' code always does.
- `attention_dim` counts all heads together, as in FuxiCTR and so in BARS (its AutoInt+ on Frappe prints a number of
  parameters that only this reading gives) and in the authors' code. The paper's d' is attention_dim / attention_heads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
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

ATTENTION_NORM_EPSILON = 1e-12  # attended vectors are about as small as the embeddings, which may start at 1e-3


@dataclasses.dataclass(frozen=True)
class AutoIntOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.autoint:build`; sizes by default are those of the authors' AutoInt+.

    BARS' sizes for AutoInt+ on Frappe are 5 layers, 4 heads, attention_dim 128, a scale and norms, and 3 x 400 hidden.
    """

    attention_layers: Annotated[int, AtLeast(1)] = 3
    attention_dim: Annotated[int, AtLeast(1)] = 64  # width of a layer's output vectors, all heads together
    attention_heads: Annotated[int, AtLeast(1)] = 2
    attention_residual: bool = True  # adds each layer's input, projected where its width is not attention_dim
    attention_scale: bool = False  # divides scores by the square root of a head's width
    attention_norm: bool = False  # layer norm of each output vector before its ReLU
    attention_dropout: Annotated[float, Fraction()] = 0.0  # of the attention weights
    # the "+": hidden widths of the MLP over the input vectors; none: AutoInt
    deep_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400, 400)
    deep_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers
    linear_term: bool = False  # adds a linear function of the flattened input vectors to the logits

    def __post_init__(self) -> None:
        """Refuses heads that do not divide, and options that the others leave without an effect."""
        super().__post_init__()
        if self.attention_dim % self.attention_heads:
            raise UserError(f"attention_dim = {self.attention_dim}: a multiple of attention_heads")
        narrow = self.attention_dim == self.attention_heads
        refuse_idle(self, "attention_scale", narrow, "where each head has width 1")
        if self.attention_norm and self.attention_dim == 1:
            raise UserError("attention_norm = True: attention_dim 1 leaves nothing to normalise; leave it out")


class SelfAttention(nn.Module):
    """An interacting layer: every head mixes a row's vectors by a softmax of their dots; residual; ReLU.

    Attributes:
      features: width of the output vectors, a multiple of `heads`.
      heads: number of heads.
      residual: whether the input is added, see `AutoIntOptions`.
      scale: whether scores are divided by the square root of a head's width.
      norm: whether a layer norm stands before the ReLU.
      dropout: rate at which attention weights are left out.
      dtype: of the products; parameters, scores and softmax are float32.
    """

    features: int
    heads: int
    residual: bool = True
    scale: bool = False
    norm: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
        """Attends.

        Each head has products of its own, taken with columns of the common kernels. On CPUs that beats one product
        for everything, whose output has to be cut up again: at B = 4096, n = 16, 16 numbers a vector and 2 heads of 16
        numbers, forward and backward take 102 ms of processor time, against 124 ms for one product with products of
        heads [B, n, A] and 121 ms for `einsum` over [B, n, heads, A]; the forward pass alone 23 ms against 59 and 57.
        Elementwise products and sums instead of the batched products take some 900 ms.

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
            weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
            mixed.append(jnp.einsum("bnm,bma->bna", weights.astype(self.dtype), value))
        made = jnp.concatenate(mixed, axis=2)
        if self.residual:
            same = inputs == self.features
            made += vectors if same else (flat @ self._kernel("residual", inputs)).reshape(made.shape)
        if self.norm:
            made = LayerNorm((2,), ATTENTION_NORM_EPSILON, name="norm")(made)
        return nn.relu(made)

    def _kernel(self, name: str, inputs: int) -> jax.Array:
        """A kernel [inputs, features] in the compute dtype, called inside the compact `__call__`."""
        return self.param(name, output_initializer(), (inputs, self.features)).astype(self.dtype)


class AutoInt(nn.Module):
    """Attention layers; a linear layer over all of their output vectors and the MLP's last hidden layer.

    The paper's sum of an attention logit and an MLP's is one linear layer over both side by side; one bias stands for
    their two. An absent token is a zero vector like any other: it takes its part of the attention, brings nothing, and
    what it attends to reaches the logits.
    """

    options: AutoIntOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        flat = vectors.reshape(len(vectors), -1)
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
        parts = [vectors.reshape(len(vectors), -1)]
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
      UserError: an unknown option, a value out of range, one that others leave without an effect, or a single vector,
        which has nothing to attend to.
    """
    built = build_options(AutoIntOptions, options, shape)
    if count_vectors(shape) < 2:
        raise UserError(f"tokens = {shape.tokens}: AutoInt weighs vectors against each other; give it two at least")
    return AutoInt(built, shape)
