"""FinalMLP (arXiv 2304.00902): two MLPs over differently gated embeddings, and a bilinear form of their outputs.

Our choices where the paper gives no details: the gates start at exactly 1, because the last layers of their MLPs start
at zero; the learned constants that gates may read start as unit noise (if they start at zero, as in the paper's code,
no gradient passes the ReLUs after them); the bilinear form and the linear one start near zero.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.mlp import MLP
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import (
    VectorModelOptions,
    build_options,
    hidden_layers,
    input_vectors,
    output_layers,
)
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class FinalMLPOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.finalmlp:build`.

    The default sizes are the best of the BARS benchmark on MovieLens, whose gates read constants. On Frappe, the best
    are streams of [400] and [100], 5 heads, and gates of [400] that read the user and the item. Both use batch norm.

    *Contexts* are column names; a column with several embeddings contributes all of them. Gates read the same
    embeddings as the streams; the paper's code has separate tables for each context. The dense columns share one
    vector, which has no column name and cannot be a context. Neither can tokens of several columns.

    *Norm.* `mlp_norm` applies to the streams. The hidden layers of the gates have no norm, as in the paper's code.
    """

    mlp1_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400,)  # widths of all layers of the first stream
    mlp2_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (800,)  # widths of all layers of the second stream
    mlp1_dropout: Annotated[float, Fraction()] = 0.0  # after each layer of the first stream
    mlp2_dropout: Annotated[float, Fraction()] = 0.0
    use_fs: bool = True  # feature selection: each stream reads the vectors times gates between 0 and 2
    fs_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (800,)  # hidden widths of the gates' MLPs
    fs1_context: tuple[str, ...] = ()  # columns that the first stream's gates read; empty for a learned constant
    fs2_context: tuple[str, ...] = ()  # the same for the second stream
    heads: Annotated[int, AtLeast(1)] = 10  # k, equal parts of both streams' outputs, paired in order

    def __post_init__(self) -> None:
        """Refuses sizes that do not fit, and options without effect."""
        super().__post_init__()
        for name in ("mlp1_hidden", "mlp2_hidden"):
            widths = getattr(self, name)
            if not widths:
                raise UserError(f"{name} = []: a stream needs a layer; add one")
            if widths[-1] % self.heads:
                raise UserError(f"heads = {self.heads}: does not divide {widths[-1]}, the last width of {name}")
        for name in ("fs1_context", "fs2_context"):
            columns = getattr(self, name)
            if len(set(columns)) < len(columns):
                raise UserError(f"{name} = {list(columns)}: a column twice; name it once")
        for name in ("fs_hidden", "fs1_context", "fs2_context"):
            refuse_idle(self, name, not self.use_fs, "where use_fs is False")


class FinalMLP(nn.Module):
    """Two gated MLPs ("streams"); logits = b + w_1 o_1 + w_2 o_2 + sum over heads of o_1 W_3 o_2."""

    options: FinalMLPOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        first, second = (self._stream(index, vectors, train) for index in (1, 2))
        linear = output_layers((), options, shape)(jnp.concatenate([first, second], axis=1), train=train)
        bilinear = MultiHeadBilinear(
            options.heads, shape.objectives, options.head_output_scale, shape.dtype, name="bilinear"
        )
        return Outputs(linear + bilinear(first, second), {})

    def _stream(self, index: int, vectors: jax.Array, train: bool) -> jax.Array:
        """Applies one of the two MLPs, [B, n, D] to [B, last width]."""
        options = self.options
        flat = vectors.reshape(vectors.shape[0], -1)
        if options.use_fs:
            flat = flat * self._gates(index, vectors, train)
        widths, dropout = getattr(options, f"mlp{index}_hidden"), getattr(options, f"mlp{index}_dropout")
        return hidden_layers(widths, options, self.shape, name=f"mlp{index}", dropout=dropout)(flat, train=train)

    def _gates(self, index: int, vectors: jax.Array, train: bool) -> jax.Array:
        """Computes 2 sigmoid(MLP(context)), [B, n * D], or [1, n * D] if the context is a learned constant."""
        options, (_, count, width) = self.options, vectors.shape
        columns = getattr(options, f"fs{index}_context")
        if columns:
            # slices, because the gradient of indexing by a list is a scatter
            taken = [jax.lax.index_in_dim(vectors, i, 1, keepdims=False) for i in context_places(columns, self.shape)]
            context = jnp.concatenate(taken, axis=1)
        else:
            context = self.param(f"fs{index}_constant", nn.initializers.normal(1.0), (width,))[None]
        gate = MLP(
            options.fs_hidden,
            count * width,
            self.shape.dtype,
            options.mlp_biases,
            output_scale=0.0,
            name=f"fs{index}",
        )
        return 2 * nn.sigmoid(gate(context, train=train))


class MultiHeadBilinear(nn.Module):
    """Splits both vectors into one part per head, and sums a bilinear form of each pair of parts over the heads.

    Attributes:
      heads: number of parts.
      features: O, number of forms of each pair.
      scale: initial size of the output divided by the product of the vectors' root mean squares, at least 0.
      dtype: dtype of the matrix products; the kernel is float32.
    """

    heads: int
    features: int
    scale: float
    dtype: Any = jnp.float32

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, left: jax.Array, right: jax.Array) -> jax.Array:
        """Applies the bilinear forms.

        The head axis is first in the product, so XLA:CPU runs one plain product per head. Forward and backward on two
        busy cores at B = 4096, minimum of 15:

        | | 400 and 400, 10 heads | the same, O = 2 | 400 and 100, 5 heads | 400 and 400, 50 heads |
        | --- | --- | --- | --- | --- |
        | this | 12 ms | 54 ms | 7 ms | 13 ms |
        | heads on the middle axis, without a transpose | 32 ms | 107 ms | 13 ms | 23 ms |
        | one product per head, sums added | 26 ms | 50 ms | 10 ms | 128 ms |
        | one product per head, concatenated | 15 ms | 81 ms | 8 ms | 57 ms |
        | one product with a block-diagonal kernel | 63 ms | 217 ms | 17 ms | 85 ms |

        Args:
          left: [B, heads * L] float.
          right: [B, heads * R] float.

        Returns:
          [B, O] float32.
        """
        lefts, rights = (
            values.astype(self.dtype).reshape(values.shape[0], self.heads, -1).transpose(1, 0, 2)
            for values in (left, right)
        )
        sizes = (lefts.shape[2], rights.shape[2])
        # each output sums L * R terms in each head
        deviation = self.scale * (self.heads * sizes[0] * sizes[1]) ** -0.5
        shape = (self.heads, sizes[0], self.features, sizes[1])
        kernel = self.param("kernel", nn.initializers.normal(deviation), shape).astype(self.dtype)
        mixed = jnp.einsum("hbl,hlf->hbf", lefts, kernel.reshape(self.heads, sizes[0], -1))
        mixed = mixed.reshape(*mixed.shape[:2], self.features, sizes[1]).astype(jnp.float32)
        return (mixed * rights[:, :, None].astype(jnp.float32)).sum((0, 3))


def context_places(columns: tuple[str, ...], shape: ModelShape) -> list[int]:
    """Returns the indices of the columns' embeddings among the model's vectors, column by column.

    Args:
      columns: column names from `shape.token_columns`.
      shape: sizes and columns; if there are dense columns, the first vector is the dense vector.

    Returns:
      Indices in 0..n-1.
    """
    ahead = int(shape.dense_features > 0)
    return [ahead + place for name in columns for place, column in enumerate(shape.token_columns) if column == name]


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `FinalMLPOptions`.
      shape: sizes of inputs and outputs; `token_columns` gives the names for contexts.

    Returns:
      A `FinalMLP`.

    Raises:
      UserError: an unknown option or column, a value out of range, heads that do not divide the streams' last widths,
        or an option without effect.
    """
    built = build_options(FinalMLPOptions, options, shape)
    known = list(dict.fromkeys(column for column in shape.token_columns if column))
    for name in ("fs1_context", "fs2_context"):
        for column in getattr(built, name):
            if column not in known:
                raise UserError(
                    f"config.model.options.{name} = {column!r}: no column with embeddings of its own; "
                    f"known: {', '.join(known) or 'none'} (dense columns cannot be a context)"
                )
    return FinalMLP(built, shape)
