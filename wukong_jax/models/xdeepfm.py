"""xDeepFM (arXiv 1803.05170): a compressed interaction network (CIN) and an MLP over the same vectors.

Unlike in the paper, where the linear term has one weight per id, an id only has an embedding here, and the linear term
is a learned linear map of the flattened embeddings (and of the dense vector).
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.mlp import HIDDEN_INITIALIZER, output_initializer
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


@dataclasses.dataclass(frozen=True)
class XDeepFMOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.xdeepfm:build`.

    The default widths of the MLP are the paper's, those of the CIN are the defaults of BARS' code: three layers of 200
    maps, as in the paper, would cost 200 MFLOP per row and step on Criteo (39 fields, D = 10).

    *Norm.* The maps of layer k are proportional to the power k + 1 of the embeddings' scale, so if tables start at
    0.02, the linear term and the MLP learn first. With `embedding_norm`, all three start at sizes of 1 to 7
    (n = D = 16).
    """

    cin_maps: Annotated[tuple[int, ...], AtLeast(1)] = (16, 16, 16)  # H_k, feature maps of each CIN layer
    cin_activation: Literal["none", "relu"] = "none"  # after each CIN layer; the paper found none best
    cin_split: bool = False  # half of a layer's maps feed the next layer, the other half (last layer: all) the logits
    # hidden widths of the MLP; if empty, there is only the CIN and the linear term
    deep_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400, 400)
    deep_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers

    def __post_init__(self) -> None:
        """Refuses a network without layers, and options without effect."""
        super().__post_init__()
        maps = list(self.cin_maps)
        if not maps:
            raise UserError("cin_maps = []: at least one layer; give it a number of maps")
        refuse_idle(self, "cin_split", len(maps) == 1, "on a single CIN layer")
        if self.cin_split and any(count % 2 for count in maps[:-1]):
            raise UserError(f"cin_maps = {maps}: cin_split halves every layer but the last; make them even")


@jax.custom_vjp
def combine_pairs(left: jax.Array, right: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes weighted sums of the elementwise products of every left vector with every right vector.

    All H * m products are formed, with the numbers of a batch last, and multiplied by the kernel in one matrix product.
    The gradient is written in the same form: that of a left vector is a sum over products of a right vector with the
    gradient of a map, so it is an outer product and one matrix product, too, and what the forward pass formed need not
    be kept. XLA:CPU has fast loops for neither sums over pairs nor batched contractions.

    Args:
      left: [H, R] float vectors, R numbers of each.
      right: [m, R] vectors in the same dtype.
      kernel: [H, m, new maps] in the same dtype.

    Returns:
      [new maps, R] in the same dtype.
    """
    return kernel.reshape(-1, kernel.shape[2]).T @ _multiply_all(left, right)


def _multiply_all(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies all rows of [H, R] with all rows of [m, R]: [H * m, R]."""
    return (left[:, None] * right[None]).reshape(left.shape[0] * right.shape[0], left.shape[1])


Pairs = tuple[jax.Array, jax.Array, jax.Array]


def _combine_forward(left: jax.Array, right: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Pairs]:
    return combine_pairs(left, right, kernel), (left, right, kernel)


def _combine_backward(kept: Pairs, gradient: jax.Array) -> Pairs:
    left, right, kernel = kept
    lefts, rights, maps = kernel.shape
    by_right, by_left = _multiply_all(right, gradient), _multiply_all(left, gradient)
    left_gradient = kernel.reshape(lefts, -1) @ by_right
    right_gradient = kernel.transpose(1, 0, 2).reshape(rights, -1) @ by_left
    if lefts >= rights:
        kernel_gradient = (left @ by_right.T).reshape(lefts, rights, maps)
    else:
        kernel_gradient = (right @ by_left.T).reshape(rights, lefts, maps).transpose(1, 0, 2)
    return left_gradient, right_gradient, kernel_gradient


combine_pairs.defvjp(_combine_forward, _combine_backward)


@jax.custom_vjp
def combine_own_pairs(vectors: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `combine_pairs` of vectors with themselves; of the gradient's products, half are the same.

    Args:
      vectors: [n, R] float.
      kernel: [n, n, new maps] in the same dtype.

    Returns:
      [new maps, R] in the same dtype.
    """
    return combine_pairs(vectors, vectors, kernel)


def _combine_own_forward(vectors: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return combine_own_pairs(vectors, kernel), (vectors, kernel)


def _combine_own_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    vectors, kernel = kept
    products = _multiply_all(vectors, gradient)
    both = (kernel + kernel.transpose(1, 0, 2)).reshape(len(kernel), -1)
    return both @ products, (vectors @ products.T).reshape(kernel.shape)


combine_own_pairs.defvjp(_combine_own_forward, _combine_own_backward)


def combine_dots(left: jax.Array, right: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `combine_pairs` summed over D, which is a linear map of the dot products of all pairs.

    It needs about 1 / D of the multiply-accumulates.

    Args:
      left: [B, D, H] float vectors.
      right: [B, D, m] vectors in the same dtype.
      kernel: [H, m, new maps] float32.

    Returns:
      [B, new maps] in the dtype of the vectors.
    """
    dots = jnp.einsum("bdh,bdm->bhm", left, right).reshape(left.shape[0], -1)
    return dots @ kernel.reshape(dots.shape[1], -1).astype(dots.dtype)


class CompressedInteractionNetwork(nn.Module):
    """Layers of feature maps, each a weighted sum of products of the previous layer's maps with the input vectors.

    Section 3.1 of the paper: X^k_h = f(sum over i, j of W^{k,h}_ij X^{k-1}_i * X^0_j) without biases, so layer k has
    order k + 1 in the input, and maps are summed over D for the logits. If f is the identity, maps that only the
    logits read (those of the last layer, and half of each layer with `split`) are not computed: `combine_dots` computes
    their sums directly. If layer k computes, from H_{k-1} maps and m vectors, a_k maps for the next layer and b_k maps
    for the logits only, a row costs this number of multiply-accumulates:

        H_{k-1} * m * (D * a_k + (D + b_k if b_k else 0)), or D * H_{k-1} * m * (a_k + b_k) with a ReLU

    where a_k = 0 and b_k = H_k in the last layer, and a_k = H_k and b_k = 0 in the others. With `split`, the others
    have a_k = b_k = H_k / 2, and the next layer reads H_k / 2 maps.

    Attributes:
      maps: H_k, number of maps of each layer.
      activation: f.
      split: whether the first half of a layer's maps feeds the next layer and the second half the logits; otherwise
        all maps feed both.
    """

    maps: tuple[int, ...]
    activation: Literal["none", "relu"]
    split: bool

    is_layer: ClassVar[bool] = True

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the layers.

        Args:
          inputs: [B, n, D] float; n is the paper's m.

        Returns:
          Sums over D of all maps that the logits read, layer by layer, [B, number of maps] in the inputs' dtype.
        """
        batch, tokens, width = inputs.shape
        # numbers of the batch last, [n, D, B], so that loops over products of vectors are over neighbours in memory
        first = inputs.reshape(batch, -1).T.reshape(tokens, width, batch)
        last, sums = first, []
        for index, count in enumerate(self.maps):
            fed = 0 if index == len(self.maps) - 1 else count // 2 if self.split else count
            last, pooled = self._layer(last, first, count, fed, f"kernel_{index}")
            sums += pooled
        return jnp.concatenate(sums, axis=1)

    def _layer(
        self, last: jax.Array, first: jax.Array, count: int, fed: int, name: str
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Applies one layer.

        Args:
          last: [H_{k-1}, D, B] maps of the previous layer; in the first layer, the input vectors.
          first: [n, D, B] input vectors.
          count: H_k, number of maps.
          fed: number of maps that the next layer reads (the first ones).
          name: name of the kernel.

        Returns:
          The maps for the next layer [fed, D, B], and a list of [B, maps] arrays: sums over D of maps for the logits.
        """
        maps, width, batch = last.shape
        tokens = first.shape[0]
        start = HIDDEN_INITIALIZER if self.activation == "relu" else output_initializer()
        kernel = self.param(name, start, (maps * tokens, count)).reshape(maps, tokens, count).astype(last.dtype)

        def combine(kernel: jax.Array) -> jax.Array:
            flat = first.reshape(tokens, width * batch)
            if last is first:
                made = combine_own_pairs(flat, kernel)
            else:
                made = combine_pairs(last.reshape(maps, width * batch), flat, kernel)
            return made.reshape(kernel.shape[2], width, batch)

        if self.activation == "relu":
            made = nn.relu(combine(kernel))
            return made[:fed], [made[fed if self.split else 0 :].sum(axis=1).T]
        made, sums = last, []
        if fed:
            made = combine(kernel[:, :, :fed])
            if not self.split:
                sums.append(made.sum(axis=1).T)
        if fed < count:
            sums.append(combine_dots(last.transpose(2, 1, 0), first.transpose(2, 1, 0), kernel[:, :, fed:]))
        return made, sums


class XDeepFM(nn.Module):
    """A linear layer over the flattened vectors, the CIN's sums and the MLP's last hidden layer (section 3.3)."""

    options: XDeepFMOptions
    shape: ModelShape

    @property
    def pair_row_bytes(self) -> int:
        """Bytes of the most products of pairs that a layer forms for one row, [H, n, D]; it sets the microbatch."""
        options, count = self.options, count_vectors(self.shape)
        read = [count, *(maps // 2 if options.cin_split else maps for maps in options.cin_maps[:-1])]
        computed = read if options.cin_activation == "relu" else read[:-1]  # without ReLU, the last layer takes dots
        return max(computed, default=0) * count * self.shape.width * self.shape.dtype.itemsize

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        flat = vectors.reshape(vectors.shape[0], -1)
        network = CompressedInteractionNetwork(options.cin_maps, options.cin_activation, options.cin_split, name="cin")
        parts = [flat, network(vectors)]
        if options.deep_hidden:
            deep = hidden_layers(options.deep_hidden, options, shape, name="deep", dropout=options.deep_dropout)
            parts.append(deep(flat, train=train))
        return Outputs(output_layers((), options, shape)(jnp.concatenate(parts, axis=1), train=train), {})


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `XDeepFMOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      An `XDeepFM`.

    Raises:
      UserError: an unknown option, a value out of range, or an option without effect.
    """
    return XDeepFM(build_options(XDeepFMOptions, options, shape), shape)
