"""The differentiated network: token assembly over collected rows, then the dense model."""

import importlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from wukong_jax.config import RunConfig
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.tokens import TokenAssembly
from wukong_jax.errors import UserError
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.schema import Schema


class Network(nn.Module):
    """Collected embedding rows and dense features to logits; everything in it is differentiated.

    Attributes:
      layout: where each column's slots and tokens are.
      model: the dense model, which knows nothing of tables.
    """

    layout: EmbeddingLayout
    model: nn.Module

    @nn.compact
    def __call__(
        self,
        dense: jax.Array,
        values: dict[str, jax.Array],
        ids: jax.Array,
        domain: jax.Array,
        extras: Mapping[str, jax.Array],
        *,
        train: bool,
    ) -> Outputs:
        """Runs the network.

        Args:
          dense: [B, F_dense] float32.
          values: per table stack, [B, S_stack, width] float32, as the exchange collects them.
          ids: [B, S] int32, -1 = no id.
          domain: [B] int32.
          extras: what only one system needs.
          train: whether dropout acts (it needs the "dropout" random stream).

        Returns:
          Outputs with logits [B, O] float32.
        """
        embeddings, token_mask = TokenAssembly(self.layout, name="tokens")(values, ids)
        return self.model(dense, embeddings, token_mask, domain, extras, train=train)


def build_model_shape(config: RunConfig, schema: Schema, layout: EmbeddingLayout) -> ModelShape:
    """The sizes a model factory needs, from the schema and the embedding layout."""
    return ModelShape(
        dense_features=len(schema.dense),
        tokens=layout.tokens,
        width=layout.width,
        objectives=len(schema.labels),
        domains=max(1, len(schema.domain_values)),
        compute_dtype=config.training.compute_dtype,
    )


def build_network(config: RunConfig, schema: Schema, layout: EmbeddingLayout) -> Network:
    """Builds the network that a config names.

    Raises:
      UserError: the factory cannot be imported, or refuses an option.
    """
    factory = _load_factory(config.model.factory)
    return Network(layout=layout, model=factory(config.model.options, build_model_shape(config, schema, layout)))


def _load_factory(name: str) -> Any:
    module_name, _, function_name = name.partition(":")
    fix = "give 'module:function', such as 'wukong_jax.models.wukong:build'"
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"config.model.factory = {name!r}: {error}; {fix}") from None
