"""DCNv2 (arXiv 2008.13535): cross layers and an MLP over the flattened embeddings, stacked or parallel."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.cross_network import CrossNetwork
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import (
    VectorModelOptions,
    build_options,
    dense_vector,
    hidden_layers,
    output_layers,
    prepared_embeddings,
)
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class DCNv2Options(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.dcnv2:build`.

    The mixture of experts in the cross layers is not implemented: both papers used as references here compare with
    plain full-rank or low-rank layers.

    *Norm.* Cross terms of order k are proportional to the k-th power of the embeddings' scale. Strong L2 on the tables
    keeps the scale small, and the model hardly learns unless a norm restores it: `public/frappe_baselines:dcnv2`
    (L2 0.1) had a validation AUC of 0.936 after six epochs without `embedding_norm` and 0.981 with it, one seed each.
    """

    cross_layers: Annotated[int, AtLeast(1)] = 3
    cross_rank: Annotated[int | None, AtLeast(1)] = None  # None = full rank: a square kernel per layer
    cross_biases: bool = True  # b of each cross layer
    structure: Literal["stacked", "parallel"] = "stacked"  # MLP after the cross layers, or parallel to them
    # the MLP's hidden widths; if empty (stacked only), the logits are linear in the crossed vector
    deep_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (512, 256)
    deep_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers
    dense_input: Literal["bottom", "raw"] = "bottom"  # dense columns through a bottom MLP (TorchRec), or unchanged

    def __post_init__(self) -> None:
        """Refuses a parallel MLP without hidden layers, and options without effect."""
        super().__post_init__()
        if self.structure == "parallel" and not self.deep_hidden:
            raise UserError("deep_hidden = []: structure 'parallel' needs a hidden layer; add one or use 'stacked'")
        for name in (field.name for field in dataclasses.fields(self) if field.name.startswith("bottom_")):
            refuse_idle(self, name, self.dense_input == "raw", "where dense_input is 'raw'")


class DCNv2(nn.Module):
    """Cross layers over x_0 = (flattened embeddings, dense part); hidden layers; logits."""

    options: DCNv2Options
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        start = self._flat_inputs(inputs, train)
        layers, rank = options.cross_layers, options.cross_rank
        crossed = CrossNetwork(layers, rank, options.cross_biases, shape.dtype, name="cross")(start)
        if options.structure == "stacked":
            deep = output_layers(options.deep_hidden, options, shape, dropout=options.deep_dropout)
            return Outputs(deep(crossed, train=train), {})
        beside = hidden_layers(options.deep_hidden, options, shape, name="deep", dropout=options.deep_dropout)
        both = jnp.concatenate([crossed, beside(start, train=train)], axis=1)
        return Outputs(output_layers((), options, shape)(both, train=train), {})

    def _flat_inputs(self, inputs: ModelInputs, train: bool) -> jax.Array:
        """Computes x_0, [B, N * D + (D or F_dense)] in the compute dtype."""
        options, shape = self.options, self.shape
        flat = prepared_embeddings(inputs, options, shape, train=train).reshape(inputs.embeddings.shape[0], -1)
        if not shape.dense_features:
            return flat
        raw = options.dense_input == "raw"
        made = inputs.dense.astype(shape.dtype) if raw else dense_vector(inputs.dense, options, shape, train=train)
        return jnp.concatenate([flat, made], axis=1)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `DCNv2Options`.
      shape: sizes of inputs and outputs.

    Returns:
      A `DCNv2`.

    Raises:
      UserError: an unknown option, a value out of range, or an option without effect.
    """
    return DCNv2(build_options(DCNv2Options, options, shape), shape)
