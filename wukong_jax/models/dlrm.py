"""DLRM (arXiv 1906.00091): dot products of all pairs of embeddings, between a bottom MLP and a top MLP."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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

# Dot products are quadratic in the embeddings' scale s, so their variance is of the order s**4 (1e-12 at s = 1e-3).
PAIR_NORM_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class DLRMOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.dlrm:build`; default widths are from the comparison in Wukong."""

    top_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (512, 512)  # hidden widths of the MLP that ends in the logits
    top_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers
    pair_norm: bool = False  # layer norm over the dot products; our addition, the original has none


@jax.custom_vjp
def pair_dots(vectors: jax.Array) -> jax.Array:
    """Computes dot products of all pairs of different vectors of a row: (1, 0), (2, 0), (2, 1), (3, 0), ...

    One static index over the flattened square selects the strict lower triangle. The gradient is hand-written (reverse
    mode only): the inverse index puts each pair's gradient on both sides of the diagonal, and one product with the
    vectors completes it; the gradient that JAX derives has a scatter and two products. Medians on two shared CPU cores
    at B = 4096 and 27 vectors:

    | | D = 16 forward | backward | D = 128 forward | backward |
    | --- | --- | --- | --- | --- |
    | this | 6 ms | 3 ms | 90 ms | 62 ms |
    | the same index, JAX's gradient | 6 ms | 20 ms | 88 ms | 155 ms |
    | index pairs [:, rows, columns], JAX's gradient | 9 ms | 20 ms | 105 ms | 170 ms |
    | rows of the triangle concatenated, JAX's gradient | 10 ms | 45 ms | 90 ms | 196 ms |
    | the same, this gradient's square built by concatenation | 8 ms | 8 ms | 112 ms | 61 ms |

    A copy of the transposed vectors for the forward product saves a fifth at D = 128 on these cores, but accelerators
    read transposed operands at no cost and would lose time by the copy.

    `models/cost.py` counts the forward product, a square product with two gradients; this convention reproduces the
    papers' numbers. The gradient here does half of that work.

    Args:
      vectors: [B, n, D] float.

    Returns:
      [B, n * (n - 1) / 2] in the dtype of `vectors`.
    """
    count = vectors.shape[1]
    rows, columns = np.tril_indices(count, -1)
    square = jnp.einsum("bnd,bmd->bnm", vectors, vectors)
    return jnp.take(square.reshape(-1, count * count), rows * count + columns, axis=1, mode="clip")


def _pair_dots_forward(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    return pair_dots(vectors), vectors


def _pair_dots_backward(vectors: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    count, pairs = vectors.shape[1], gradient.shape[1]
    place = np.full((count, count), pairs)  # the diagonal reads the zero that is appended to the pairs
    rows, columns = np.tril_indices(count, -1)
    place[rows, columns] = place[columns, rows] = np.arange(pairs)
    padded = jnp.pad(gradient, ((0, 0), (0, 1)))
    square = jnp.take(padded, place.reshape(-1), axis=1, mode="clip").reshape(-1, count, count)
    return (jnp.einsum("bnm,bmd->bnd", square, vectors),)


pair_dots.defvjp(_pair_dots_forward, _pair_dots_backward)


class DLRM(nn.Module):
    """Bottom MLP to a dense vector; dot products of all pairs of vectors; top MLP over dense vector and dot products.

    Pairs on and above the diagonal are left out, as in the original code. Without dense columns, there is neither a
    bottom MLP nor a dense vector.
    """

    options: DLRMOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        parts = [vectors[:, 0]] if shape.dense_features else []
        if vectors.shape[1] > 1:
            dots = pair_dots(vectors)
            parts.append(LayerNorm((1,), PAIR_NORM_EPSILON, name="pair_norm")(dots) if options.pair_norm else dots)
        top = output_layers(options.top_hidden, options, shape, name="top", dropout=options.top_dropout)
        return Outputs(top(jnp.concatenate(parts, axis=1), train=train), {})


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `DLRMOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `DLRM`.

    Raises:
      UserError: an unknown option, a value out of range, or a single embedding without dense columns.
    """
    built = build_options(DLRMOptions, options, shape)
    vectors = count_vectors(shape)
    if vectors < 2 and not shape.dense_features:
        raise UserError(f"tokens = {shape.tokens}: DLRM pairs vectors; give it two embeddings or dense columns")
    if vectors < 3 and built.pair_norm:
        raise UserError(
            f"config.model.options.pair_norm = True: {vectors} vectors make too few pairs to normalise; turn it off"
        )
    return DLRM(built, shape)
