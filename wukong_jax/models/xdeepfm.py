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


def combine_pairs(left: jax.Array, right: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes weighted sums of the elementwise products of every left vector with every right vector.

    Each vector of the shorter list has a kernel: it is multiplied by the matrix product of the longer list and this
    kernel, and the results are added up. The H * m products of a row are therefore never in memory together, and there
    is no batched contraction. Times are in ms, the minimum of nine on two busy cores at B = 4096, D = 16, 16 left
    vectors and 16 new maps, with 16 or 27 right vectors; MiB is XLA's memory for temporaries:

    | | 16: forward | and backward | MiB | 27: forward | and backward | MiB |
    | --- | --- | --- | --- | --- | --- | --- |
    | this | 67 | 219 | 124 | 75 | 306 | 168 |
    | the same over the longer list | 80 | 207 | 124 | 168 | 371 | 214 |
    | all H * m products, then one matrix product | 88 | 361 | 256 | 199 | 603 | 432 |
    | one product with all kernels, then multiplied and summed | 115 | 312 | 256 | 185 | 554 | 432 |
    | einsum of all three | 96 | 191 | 128 | 209 | 401 | 216 |

    Args:
      left: [B, D, H] float vectors.
      right: [B, D, m] vectors in the same dtype.
      kernel: [H, m, new maps] float32.

    Returns:
      [B, D, new maps] in the dtype of the vectors; sums over the shorter list are computed in float32.
    """
    if left.shape[2] < right.shape[2]:
        left, right, kernel = right, left, kernel.transpose(1, 0, 2)
    batch, width, count = right.shape
    longer = left.reshape(batch * width, -1)
    # split once: its gradient is one concatenation, while that of each index pads the whole array
    shorter = jnp.split(right.reshape(batch * width, count), count, axis=1)
    kernels = jnp.split(kernel.astype(left.dtype).reshape(longer.shape[1], -1), count, axis=1)
    total = jnp.zeros((), jnp.float32)
    for vector, weights in zip(shorter, kernels, strict=True):
        total = total + (vector * (longer @ weights)).astype(jnp.float32)
    return total.astype(left.dtype).reshape(batch, width, -1)


def combine_dots(left: jax.Array, right: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `combine_pairs` summed over D, which is a linear map of the dot products of all pairs.

    It needs about 1 / D of the multiply-accumulates: forward and backward took 23 and 24 ms instead of the 219 and 306
    in the table of `combine_pairs`.

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
        first = inputs.transpose(0, 2, 1)
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
          last: [B, D, H_{k-1}] maps of the previous layer.
          first: [B, D, n] input vectors.
          count: H_k, number of maps.
          fed: number of maps that the next layer reads (the first ones).
          name: name of the kernel.

        Returns:
          The maps for the next layer [B, D, fed], and a list of [B, maps] arrays: sums over D of maps for the logits.
        """
        pairs = last.shape[2] * first.shape[2]
        start = HIDDEN_INITIALIZER if self.activation == "relu" else output_initializer()
        kernel = self.param(name, start, (pairs, count)).reshape(last.shape[2], first.shape[2], count)
        if self.activation == "relu":
            made = nn.relu(combine_pairs(last, first, kernel))
            return made[:, :, :fed], [made[:, :, fed if self.split else 0 :].sum(axis=1)]
        made, sums = last, []
        if fed:
            made = combine_pairs(last, first, kernel[:, :, :fed])
            if not self.split:
                sums.append(made.sum(axis=1))
        if fed < count:
            sums.append(combine_dots(last, first, kernel[:, :, fed:]))
        return made, sums


class XDeepFM(nn.Module):
    """A linear layer over the flattened vectors, the CIN's sums and the MLP's last hidden layer (section 3.3)."""

    options: XDeepFMOptions
    shape: ModelShape

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
