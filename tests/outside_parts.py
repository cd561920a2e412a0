"""A small part of each kind that a config can name, written as an external package would."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.sources import RowSource
from wukong_jax.embeddings.exchange import ReplicatedExchange
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import Above, AtLeast
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.strict_mapping import build_dataclass, to_mapping
from wukong_jax.training.loss import Loss, sum_log_loss

USED: set[str] = set()  # the kinds of parts whose code has run


@dataclasses.dataclass(frozen=True)
class PopularityOptions:
    """`config.model.options`."""

    hidden: Annotated[int, AtLeast(1)] = 4


class Popularity(nn.Module):
    """A hidden layer over the mean of the embeddings and any columns joined to the row."""

    options: PopularityOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        del train
        USED.add("model")
        joined = [inputs.extras[name] for name, _ in self.shape.extras]
        features = jnp.concatenate([inputs.present_embeddings.mean(axis=1), *joined], axis=-1)
        return Outputs(nn.Dense(self.shape.objectives)(nn.relu(nn.Dense(self.options.hidden)(features))), {})


def build_model(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    return Popularity(build_dataclass(PopularityOptions, options, "config.model.options"), shape)


@dataclasses.dataclass(frozen=True)
class SquareOptions:
    """`config.loss.options`."""

    scale: Annotated[float, Above(0)] = 1.0


def build_loss(options: Mapping[str, Any], schema: Schema):
    built = build_dataclass(SquareOptions, options, "config.loss.options")
    assert [label.name for label in schema.labels] == ["click"]

    def square(outputs, batch):
        USED.add("loss")
        loss_sum, weight_sum = sum_log_loss(outputs.logits, batch)  # what is logged
        weight = batch.label_mask * batch.weight[:, None]
        error = jnp.sum(weight * (nn.sigmoid(outputs.logits) - batch.labels) ** 2)
        return Loss(built.scale * error / weight_sum, loss_sum, weight_sum)

    return square


class CountingExchange(ReplicatedExchange):
    """A replicated exchange (all rows on every device) that records that it was used."""

    def gather(self, tables, routed):
        USED.add("exchange")
        return super().gather(tables, routed)


def build_exchange(options: Mapping[str, Any], layout, mesh, model):
    del model
    if options:
        raise UserError(f"config.exchange.options.{next(iter(options))}: there are no options; leave it out")
    return CountingExchange(layout, mesh)


class ParityJoin:
    """Joins a column that tells whether the row's first id is odd."""

    widths: Mapping[str, int] = {"parity": 1}

    def __call__(self, columns):
        USED.add("join")
        return {"parity": (columns["ids"][:, :1] % 2).astype(np.float32)}


def build_join(options: Mapping[str, Any], schema: Schema) -> ParityJoin:
    del options
    assert schema.slots >= 1
    return ParityJoin()


def build_optimizer(options: Mapping[str, Any], learning_rate: float) -> optax.GradientTransformation:
    USED.add("optimizer")
    return optax.chain(optax.add_decayed_weights(options["decay"]), optax.sgd(learning_rate))


@dataclasses.dataclass(frozen=True)
class CoinOptions:
    """`config.data.options`."""

    rows: Annotated[int, AtLeast(1)] = 512
    values: Annotated[int, AtLeast(2)] = 5


def build_source(options: Mapping[str, Any], path: str, schema: str) -> RowSource:
    """Returns a source of rows with one column; rows with odd values are clicked."""
    built = build_dataclass(CoinOptions, options, "config.data.options")
    if path or schema:
        raise UserError(f"config.data.path = {path!r}: coins are tossed here; leave path and schema out")
    columns = Schema(
        "coins",
        Source("csv"),
        (LabelColumn("click"),),
        categorical=(CategoricalColumn("coin", "identity", rows=built.values),),
    )

    def prepare(directory: Path) -> None:
        USED.add("data")
        with write_whole_folder(directory) as aside:
            (aside / "schema.json").write_text(schema_to_json(columns))
            ids = np.random.default_rng(0).integers(1, built.values, (built.rows, 1)).astype(np.int32)
            for split in SPLITS:
                with BlockWriter(aside, split, columns) as writer:
                    writer.append(
                        {
                            "dense": np.zeros((built.rows, 0), np.float32),
                            "ids": ids,
                            "labels": (ids % 2).astype(np.float32),
                            "label_mask": np.ones((built.rows, 1), np.float32),
                            "domain": np.zeros(built.rows, np.int32),
                            "group": np.zeros(built.rows, np.int32),
                            "timestamp": np.zeros(built.rows, np.int64),
                            "weight": np.ones(built.rows, np.float32),
                        }
                    )

    return RowSource(lambda: columns, to_mapping(built), prepare=prepare)
