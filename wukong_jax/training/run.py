"""Builds the parts of a run from its config: mesh, layout, network, exchange, optimizer and the jitted steps."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from wukong_jax.config import MeshConfig, RunConfig
from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Batch
from wukong_jax.data.blocks.row_join import RowJoin, build_join
from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.embeddings.layout import EmbeddingLayout, build_embedding_layout
from wukong_jax.errors import UserError
from wukong_jax.layers.rematerialise import list_layers
from wukong_jax.models.shape import ModelShape
from wukong_jax.schema import Schema
from wukong_jax.sharding.axis_rules import FullSharding, shard_by_rules
from wukong_jax.sharding.mesh import (
    CHIP,
    MESH_AXES,
    batch_sharding,
    build_mesh,
    check_batch_divides,
    place_copies,
    replicated,
    round_up_batch,
)
from wukong_jax.sharding.table_layout import choose_table_formats
from wukong_jax.training.applied_options import (
    check_layers,
    check_mesh_options,
    check_split,
    count_split,
    describe_split,
)
from wukong_jax.training.bag_places import BagUse, fit_bags
from wukong_jax.training.dense_shards import DenseShards
from wukong_jax.training.length_parts import LEAST_TOKENS, LengthParts, build_length_parts, find_short_sequences
from wukong_jax.training.loss import AdditiveLoss, LossFunction
from wukong_jax.training.microbatches import count_parts, count_row_bytes
from wukong_jax.training.network import Network, build_exchange, build_model_shape, build_network
from wukong_jax.training.optimizers import build_dense_optimizer, build_schedule
from wukong_jax.training.start_logits import START_LOGITS
from wukong_jax.training.state import TrainState, init_train_state
from wukong_jax.training.step import PredictStep, build_predict_step, build_train_step


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts built from a config and a resolved schema; holds no arrays."""

    config: RunConfig
    schema: Schema
    mesh: Mesh
    layout: EmbeddingLayout
    shape: ModelShape
    network: Network
    exchange: Exchange
    optimizer: optax.GradientTransformation
    compute_loss: LossFunction

    @property
    def evaluation_batch_size(self) -> int:
        """B of evaluation and prediction: that of the config, rounded up to a multiple of the devices."""
        return round_up_batch(self.mesh, self.config.training.evaluation_batch_size)

    def init_state(self, start_logits: np.ndarray | None = None) -> TrainState:
        """Creates the state before the first step, on the mesh.

        Args:
          start_logits: [G, O] float32, constants added to the logits if the config has `start_at_rate`, from
            `training.start_logits`; None: zeros.
        """
        state = jax.jit(self._make_state, out_shardings=self.state_sharding)()
        if start_logits is None or not self.config.training.start_at_rate:
            return state
        placed = place_copies(self.mesh, start_logits)
        return state.replace(statistics={**state.statistics, START_LOGITS: placed})

    @functools.cached_property
    def state_sharding(self) -> TrainState:
        """The sharding of every array of a state; the exchange decides that of tables and of some weights.

        On TPUs, the shardings of some tables include a memory layout (see `sharding.table_layout`); every state must be
        created with it.
        """
        state = jax.eval_shape(self._make_state)
        rules, full = self.exchange.parameter_rules, _build_full_sharding(self.config.mesh)
        sharding = shard_by_rules(self.mesh, rules, state.replace(tables={}), full)
        tables = jax.tree.broadcast(self.exchange.table_sharding, state.tables)
        return sharding.replace(tables=choose_table_formats(self.mesh, state.tables, tables))

    def _make_state(self) -> TrainState:
        start = jnp.zeros((self.shape.domains, self.shape.objectives)) if self.config.training.start_at_rate else None
        return init_train_state(self.network, self.shape, self.exchange, self.optimizer, self.config.seed, start)

    def abstract_state(self) -> TrainState:
        """Returns the shapes of a state's dense part without creating arrays; `tables` is empty."""
        return jax.eval_shape(self._make_state).replace(tables={})

    def abstract_inputs(self) -> tuple[TrainState, Batch]:
        """Returns shapes and shardings of the train step's (state, batch), to compile it without creating arrays."""
        state = jax.eval_shape(self._make_state)
        rows, shapes = self.config.training.batch_size, self.schema.column_shapes()
        by_batch = batch_sharding(self.mesh)
        columns: dict[str, Any] = {
            name: jax.ShapeDtypeStruct((rows, *shape), COLUMN_DTYPES[name], sharding=by_batch)
            for name, shape in shapes.items()
        }
        extras = {
            name: jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=by_batch)
            for name, width in self.shape.extras
        }
        batch = Batch(**columns | {"timestamp": None, "group": None}, extras=extras)
        placed = jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p), state, self.state_sharding
        )
        return placed, batch

    def jit_train_step(self) -> Any:
        """Jits the train step (state, batch) -> (state, metrics), with the state donated and the batch sharded."""
        schedule = build_schedule(self.config.optimizer)
        parts = self.count_parts()
        step = build_train_step(
            self.network,
            self.exchange,
            self.optimizer,
            schedule,
            self.compute_loss,
            parts,
            self.dense_shards,
            self.config.training.remat,
            self.length_parts,
        )
        state = self.state_sharding
        inputs, outputs = (state, batch_sharding(self.mesh)), (state, replicated(self.mesh))
        return jax.jit(step, in_shardings=inputs, out_shardings=outputs, donate_argnums=0)

    def fit_bags(self, batch: Batch) -> tuple[Batch, BagUse]:
        """Chooses the places of a batch's bags, unless the config pads them; see `training.bag_places`."""
        return fit_bags(self.exchange, batch) if self.config.embeddings.bags == "by_length" else (batch, BagUse())

    def place_bags(self, batch: Batch) -> Batch:
        """Returns the batch with the places that `fit_bags` chooses."""
        return self.fit_bags(batch)[0]

    def count_parts(self) -> int:
        """Returns the number of microbatches of a step, see `config.training.microbatch`.

        Raises:
          UserError: the microbatch does not divide a device's rows, or the loss needs the whole batch.
        """
        training = self.config.training
        additive = isinstance(self.compute_loss, AdditiveLoss)
        if training.microbatch is None and (not additive or self._has_moments):
            return 1  # moments of a whole batch, unless the user says otherwise
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        row_bytes = count_row_bytes(self.shape, self.network.model)
        parts = count_parts(training.batch_size // self.mesh.size, training.microbatch, row_bytes, on_cpu)
        if parts > 1 and not additive:
            raise UserError(
                f"config.training.microbatch = {training.microbatch}: the loss needs the whole batch, as it is no "
                "sum over rows; leave it out or set it to 0"
            )
        return parts

    @functools.cached_property
    def _has_moments(self) -> bool:
        return bool(set(self.abstract_state().statistics) - {START_LOGITS})

    @functools.cached_property
    def length_parts(self) -> LengthParts | None:
        """The length classes in whose parts a step works, instead of equal microbatches; None: it does not.

        Raises:
          UserError: the config asks for them, and the model, the loss or the microbatch does not allow them.
        """
        training, wanted = self.config.training, self.config.embeddings.sequences
        sequences = find_short_sequences(self.layout, self.network.model)
        problem = ""
        if not sequences:
            problem = "the model has no sequences of which it can leave out absent events"
        elif not isinstance(self.compute_loss, AdditiveLoss) or self._has_moments:
            problem = "the loss or a batch norm needs the whole batch"
        elif training.microbatch == 0:
            problem = "config.training.microbatch = 0 takes the whole batch at once; leave it out"
        if wanted == "by_length" and problem:
            raise UserError(f"config.embeddings.sequences = {wanted!r}: {problem}; or set it to 'padded'")
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        lengths = [end - first for first, end in sequences]
        if wanted == "padded" or problem or (wanted is None and (not on_cpu or max(lengths) < LEAST_TOKENS)):
            return None
        device_rows, others = training.batch_size // self.mesh.size, self.shape.tokens - sum(lengths)
        return build_length_parts(sequences, device_rows, others, self.shape.width, training.microbatch, on_cpu)

    @functools.cached_property
    def predict_step(self) -> PredictStep:
        """The jitted predict step (params, statistics, tables, batch) -> logits, shared by all evaluations of a run."""
        everywhere, state = replicated(self.mesh), self.state_sharding
        inputs = (state.params, state.statistics, state.tables, batch_sharding(self.mesh))
        predict = build_predict_step(self.network, self.exchange, self.dense_shards)
        return jax.jit(predict, in_shardings=inputs, out_shardings=everywhere)

    def describe_weights(self) -> str:
        """Describes how dense weights are split over devices; "" if they are not."""
        split, total = self._count_split()
        return describe_split(self.config, self.mesh, split, total)

    def check_step_options(self) -> None:
        """Checks that no option of the train step is without effect.

        Raises:
          UserError: one is.
        """
        check_mesh_options(self.config, self.mesh)
        if self.config.embeddings.sequences == "by_length":
            _ = self.length_parts
        if self.config.mesh.fsdp != "none":
            check_split(self.config, self._count_split()[0])
        if self.config.training.remat:
            with list_layers() as layers:
                self.abstract_state()
            check_layers(self.config, layers)

    def _count_split(self) -> tuple[int, int]:
        rules = self.exchange.parameter_rules
        return count_split(self.abstract_state().params, self.state_sharding.params, rules)

    @functools.cached_property
    def dense_shards(self) -> DenseShards | None:
        """How dense weights are gathered and their gradients added up; None leaves both to the compiler."""
        mesh, training = self.config.mesh, self.config.training
        if self.mesh.size == 1 or (mesh.fsdp, mesh.reduce_dtype) == ("none", "float32"):
            return None
        specs = jax.tree.map(lambda sharding: sharding.spec, self.state_sharding.params)
        kept = self.exchange.parameter_rules
        return DenseShards(self.mesh, specs, kept, training.compute_dtype, mesh.reduce_dtype, training.remat)


def _build_full_sharding(mesh: MeshConfig) -> FullSharding | None:
    if mesh.fsdp == "none":
        return None
    axes = MESH_AXES if mesh.fsdp == "all" else (CHIP,)
    return FullSharding(axes, mesh.fsdp_min_size, r"^(params|optimizer_state)/")


def build_run(
    config: RunConfig,
    schema: Schema,
    devices: Sequence[jax.Device] | None = None,
    join: RowJoin | None = None,
    trains: bool = True,
) -> Run:
    """Builds all parts of a run, and checks that they fit together before any array is created.

    Args:
      config: config of the run.
      schema: resolved schema.
      devices: devices of the mesh, host by host; by default those of this process. They may belong to a machine that
        is not attached.
      join: the join of `config.data.join` if it is already open; otherwise it is opened here.
      trains: whether the run takes training steps; scoring asks for no training batch that divides over the devices.

    Raises:
      UserError: the mesh does not divide the training batch, or a part rejects its options.
    """
    mesh = build_mesh(config.mesh.hosts, config.mesh.chips, devices)
    if trains:
        check_batch_divides(mesh, config.training.batch_size, "config.training.batch_size")
    layout = build_embedding_layout(schema, config.embeddings)
    if join is None:
        join = build_join(config.data.join, schema)
    shape = build_model_shape(config, schema, layout, {} if join is None else join.widths)
    network = build_network(config, layout, shape)
    run = Run(
        config=config,
        schema=schema,
        mesh=mesh,
        layout=layout,
        shape=shape,
        network=network,
        exchange=build_exchange(config, layout, mesh, network),
        optimizer=build_dense_optimizer(config.optimizer),
        compute_loss=config.loss.build("config.loss", schema),
    )
    if trains:
        run.check_step_options()
    return run
