"""The differentiated network: token assembly over collected rows, then the dense model."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
from jax.sharding import Mesh

from wukong_jax.config import RunConfig
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.tokens import TokenAssembly
from wukong_jax.factories import find_companion
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.schema import Schema


class Network(nn.Module):
    """Collected embedding rows and dense features to logits; everything in it is differentiated.

    Attributes:
      layout: where each column's slots and tokens are.
      model: the dense model, which knows nothing of tables: any Flax module that is called with `ModelInputs` and
        `train` and returns `Outputs`.
    """

    layout: EmbeddingLayout
    model: nn.Module

    @nn.compact
    def __call__(self, values: dict[str, jax.Array], batch: Batch, *, train: bool) -> Outputs:
        """Runs the network.

        Args:
          values: as the exchange collects them: per table stack, [B, vectors of the stack, width] float32.
          batch: `B` rows, of which labels and weights are not read.
          train: whether dropout acts (it needs the "dropout" random stream).

        Returns:
          Outputs with logits [B, O] float32.
        """
        tokens = TokenAssembly(self.layout, name="tokens")(values, batch.ids)
        return self.model(ModelInputs(batch.dense, *tokens, batch.domain, batch.extras), train=train)


def build_model_shape(
    config: RunConfig, schema: Schema, layout: EmbeddingLayout, extras: Mapping[str, int]
) -> ModelShape:
    """The sizes a model factory needs, from the schema, the embedding layout, and what is joined to rows."""
    return ModelShape(
        dense_features=len(schema.dense),
        tokens=layout.tokens,
        width=layout.width,
        objectives=len(schema.labels),
        domains=max(1, len(schema.domain_values)),
        compute_dtype=config.training.compute_dtype,
        token_columns=layout.token_columns,
        extras=tuple(extras.items()),
    )


def build_network(config: RunConfig, layout: EmbeddingLayout, shape: ModelShape) -> Network:
    """Builds the network that a config names.

    Raises:
      UserError: the factory cannot be imported, or refuses an option.
    """
    return Network(layout=layout, model=config.model.build("config.model", shape))


def resolve_model_options(config: RunConfig) -> RunConfig:
    """Puts the contents of files that the model's options name in their place, so that the config alone says what runs.

    The module that the config names may have a `resolve_options(options)` beside its factory; else nothing changes.

    Raises:
      UserError: the factory cannot be imported, or a file cannot be read.
    """
    resolve = find_companion("config.model.factory", config.model.factory, "resolve_options")
    if resolve is None:
        return config
    model = dataclasses.replace(config.model, options=resolve(config.model.options))
    return dataclasses.replace(config, model=model)


def build_exchange(config: RunConfig, layout: EmbeddingLayout, mesh: Mesh, network: Network) -> Exchange:
    """Builds the exchange that a config names.

    Raises:
      UserError: the factory cannot be imported, refuses an option, or the tables do not fit the mesh.
    """
    return config.exchange.build("config.exchange", layout, mesh, network.model)
