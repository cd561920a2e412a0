"""A run's parts built from its config: mesh, layout, network, exchange and the jitted steps."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from wukong_jax.config import RunConfig
from wukong_jax.data.batch import Batch
from wukong_jax.embeddings.exchange import Exchange, ReplicatedExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, build_embedding_layout
from wukong_jax.models.shape import ModelShape
from wukong_jax.schema import Schema
from wukong_jax.sharding.mesh import batch_sharding, build_mesh, check_batch_divides, replicated
from wukong_jax.training.network import Network, build_model_shape, build_network
from wukong_jax.training.optimizers import build_dense_optimizer, build_schedule
from wukong_jax.training.train_state import TrainState, init_params, init_train_state
from wukong_jax.training.train_step import build_predict_step, build_train_step


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config and a resolved schema amount to; holds no arrays."""

    config: RunConfig
    schema: Schema
    mesh: Mesh
    layout: EmbeddingLayout
    shape: ModelShape
    network: Network
    exchange: Exchange
    optimizer: optax.GradientTransformation

    def init_state(self) -> TrainState:
        """The state before the first step, on the mesh."""
        state = init_train_state(self.network, self.shape, self.optimizer, self.config.seed)
        return jax.device_put(state, self.state_sharding())

    def state_sharding(self) -> TrainState:
        """How a state lies on the mesh: tables as the exchange places them, all else replicated."""
        everywhere = replicated(self.mesh)
        others = {field.name: everywhere for field in dataclasses.fields(TrainState)}
        placements: Any = others | {"tables": self.exchange.table_sharding}
        return TrainState(**placements)

    def abstract_state(self) -> TrainState:
        """Shapes of a state's dense part, without making any array; `tables` is left empty."""
        key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
        params = jax.eval_shape(functools.partial(init_params, self.network, self.shape), key)
        scalar = functools.partial(jax.ShapeDtypeStruct, ())
        return TrainState(
            step=scalar("int32"),
            params=params,
            optimizer_state=jax.eval_shape(self.optimizer.init, params),
            tables={},
            learning_rate_scale=scalar("float32"),
            key=key,
        )

    def jit_train_step(self) -> Any:
        """The train step (state, batch) -> (state, metrics), jitted: state donated, batch split over the mesh."""
        schedule = build_schedule(self.config.optimizer)
        step = build_train_step(self.network, self.exchange, self.optimizer, schedule)
        state = self.state_sharding()
        inputs, outputs = (state, batch_sharding(self.mesh)), (state, replicated(self.mesh))
        return jax.jit(step, in_shardings=inputs, out_shardings=outputs, donate_argnums=0)

    @functools.cached_property
    def predict_step(self) -> Callable[[Any, Any, Batch], jax.Array]:
        """The predict step (params, tables, batch) -> logits, jitted once for all evaluations of a run."""
        everywhere = replicated(self.mesh)
        inputs = (everywhere, self.exchange.table_sharding, batch_sharding(self.mesh))
        return jax.jit(build_predict_step(self.network, self.exchange), in_shardings=inputs, out_shardings=everywhere)


def build_run(config: RunConfig, schema: Schema) -> Run:
    """Builds every part of a run, checking that they fit each other before any array is made.

    Raises:
      UserError: a batch that the mesh does not divide, or options that a part refuses.
    """
    mesh = build_mesh(config.mesh.hosts, config.mesh.chips)
    check_batch_divides(mesh, config.training.batch_size, "config.training.batch_size")
    check_batch_divides(mesh, config.training.evaluation_batch_size, "config.training.evaluation_batch_size")
    layout = build_embedding_layout(schema, config.embeddings)
    return Run(
        config=config,
        schema=schema,
        mesh=mesh,
        layout=layout,
        shape=build_model_shape(config, schema, layout),
        network=build_network(config, schema, layout),
        exchange=ReplicatedExchange(layout, mesh),
        optimizer=build_dense_optimizer(config.optimizer),
    )
