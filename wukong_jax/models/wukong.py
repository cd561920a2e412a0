"""Wukong (arXiv 2403.02545): a stack of factorization machine layers between embeddings and a head."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.mlp import MLP
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.wukong_layer import build_layer
from wukong_jax.models.wukong_options import WukongOptions
from wukong_jax.strict_mapping import build_dataclass


class Wukong(nn.Module):
    """Bottom MLP from dense columns to tokens, interaction layers, head."""

    options: WukongOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, dtype = self.options, self.shape.dtype
        tokens = self._input_tokens(inputs, train)
        for index in range(options.layers):
            tokens = build_layer(options, dtype, name=f"layer_{index}")(tokens, context=train)
        head = MLP(
            options.head_hidden,
            self.shape.objectives,
            dtype,
            options.mlp_biases,
            options.head_dropout,
            options.head_output_scale,
            output_dtype=jnp.float32,
            norm=options.mlp_norm,
            name="head",
        )
        return Outputs(head(tokens.reshape(tokens.shape[0], -1), train=train), {})

    def _input_tokens(self, inputs: ModelInputs, train: bool) -> jax.Array:
        """Computes X_0 in the compute dtype, tokens on the last axis: the embeddings, then the dense tokens."""
        options, dtype, width = self.options, self.shape.dtype, self.shape.width
        tokens = inputs.present_embeddings.astype(dtype).transpose(0, 2, 1)
        if self.shape.dense_features:
            features = width * options.dense_tokens
            bottom = MLP(
                options.bottom_hidden,
                features,
                dtype,
                options.mlp_biases,
                output_scale=options.dense_token_scale,
                name="bottom",
            )
            made = bottom(inputs.dense.astype(dtype), train=train).reshape(-1, width, options.dense_tokens)
            tokens = jnp.concatenate([tokens, made], axis=2)
        return Dropout(options.embedding_dropout, deterministic=not train)(tokens)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `WukongOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `Wukong`.

    Raises:
      UserError: an unknown option, a value out of range, or an option without effect.
    """
    return Wukong(build_dataclass(WukongOptions, options, "config.model.options"), shape)
