"""Defines the differentiated network: token assembly from embedding rows, then the dense model."""

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
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.schema import Schema
from wukong_jax.training.start_logits import START_LOGITS, add_start_logits


class Network(nn.Module):
    """Computes logits from embedding rows and dense features; all of it is differentiated.

    Attributes:
      layout: positions of each column's slots and tokens.
      model: the dense model, which is independent of tables: any Flax module that is called with `ModelInputs` and
        `train` and returns `Outputs`.
    """

    layout: EmbeddingLayout
    model: nn.Module

    @nn.compact
    def __call__(self, values: dict[str, jax.Array], batch: Batch, *, train: bool) -> Outputs:
        """Runs the network, without start logits.

        Args:
          values: vectors collected by the exchange: per table stack, [B, vectors of the stack, width] float32.
          batch: batch of B rows; labels and weights are not read.
          train: whether to apply dropout, which needs the "dropout" random stream.

        Returns:
          Outputs with logits [B, O] float32.
        """
        tokens = TokenAssembly(self.layout, name="tokens")(values, batch.ids)
        return self.model(ModelInputs(batch.dense, *tokens, batch.domain, batch.extras), train=train)

    def start_at_rate(self, outputs: Outputs, domain: jax.Array) -> Outputs:
        """Adds the start logits to the outputs, if the run has any.

        Args:
          outputs: outputs of the model.
          domain: [B] int32, domain of each row.
        """
        if not self.has_variable(STATISTICS, START_LOGITS):
            return outputs
        return add_start_logits(outputs, self.get_variable(STATISTICS, START_LOGITS), domain)


def build_model_shape(
    config: RunConfig, schema: Schema, layout: EmbeddingLayout, extras: Mapping[str, int]
) -> ModelShape:
    """Builds the sizes that a model factory needs; `extras` maps the names of joined extras to their widths."""
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
      UserError: the factory cannot be imported, or rejects an option.
    """
    return Network(layout=layout, model=config.model.build("config.model", shape))


def resolve_model_options(config: RunConfig) -> RunConfig:
    """Replaces file names in the model's options by the files' contents, so that the config is self-contained.

    This calls `resolve_options(options)` of the factory's module; if there is none, the options are unchanged.

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
      UserError: the factory cannot be imported, an option is rejected, or the tables do not fit the mesh.
    """
    return config.exchange.build("config.exchange", layout, mesh, network.model)
