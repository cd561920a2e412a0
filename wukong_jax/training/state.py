"""Defines the training state, one pytree with everything that training changes, and initializes it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.tables import StackState
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.models.shape import ModelShape
from wukong_jax.training.network import Network
from wukong_jax.training.start_logits import START_LOGITS

# Numbers folded into random keys, a different one for each purpose.
PURPOSE_PARAMETERS, PURPOSE_TABLES, PURPOSE_STEPS = range(3)  # folded into the root key
PURPOSE_DROPOUT, PURPOSE_ROUNDING = range(2)  # folded into a step's key


class TrainState(flax.struct.PyTreeNode):
    """The state of a run, donated to each step and replaced by its result."""

    step: Any  # [] int32, steps taken
    params: Any  # dense weights, float32
    statistics: Any  # running statistics of the model and start logits [G, O], float32; empty if there are none
    optimizer_state: Any  # optimizer state of the dense weights
    tables: dict[str, StackState]  # embedding tables with their optimizer arrays; not parameters
    learning_rate_scale: Any  # [] float32, lowered when validation stalls
    key: Any  # random key; the step is folded into it for dropout and stochastic rounding


def table_key(seed: int) -> jax.Array:
    """Returns the random key from which a run's tables are drawn."""
    return jax.random.fold_in(jax.random.PRNGKey(seed), PURPOSE_TABLES)


def zero_inputs(layout: EmbeddingLayout, shape: ModelShape, rows: int) -> tuple[dict[str, jax.Array], Batch]:
    """Returns zeros as inputs of the network, to initialize it; batch columns that it does not read are None."""
    values = {stack.name: jnp.zeros((rows, stack.vectors, stack.width)) for stack in layout.stacks}
    columns: dict[str, Any] = dict.fromkeys(Batch._fields) | {
        "dense": jnp.zeros((rows, shape.dense_features)),
        "ids": jnp.zeros((rows, layout.slots), jnp.int32),
        "domain": jnp.zeros((rows,), jnp.int32),
        "extras": {name: jnp.zeros((rows, width)) for name, width in shape.extras},
    }
    return values, Batch(**columns)


def init_variables(network: Network, shape: ModelShape, key: jax.Array) -> tuple[Any, Any]:
    """Initializes (dense weights, running statistics), tracing the network with a single row."""

    def init(key: jax.Array) -> tuple[Any, Any]:
        variables = network.init(key, *zero_inputs(network.layout, shape, 1), train=False)
        return variables.get("params", {}), variables.get(STATISTICS, {})

    return jax.jit(init)(key)


def init_train_state(
    network: Network,
    shape: ModelShape,
    exchange: Exchange,
    optimizer: optax.GradientTransformation,
    seed: int,
    start_logits: jax.Array | None = None,
) -> TrainState:
    """Creates the state before the first step, a pure function of the network, the placement of tables and the seed.

    Args:
      network: the network.
      shape: sizes of the model's inputs and outputs.
      exchange: exchange that places the tables.
      optimizer: optimizer of the dense weights.
      seed: seed of weights, tables and steps.
      start_logits: [G, O] float32, constants added to the logits; None: the network has none.
    """
    root = jax.random.PRNGKey(seed)
    params, statistics = init_variables(network, shape, jax.random.fold_in(root, PURPOSE_PARAMETERS))
    if start_logits is not None:
        statistics = {**statistics, START_LOGITS: start_logits}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        statistics=statistics,
        optimizer_state=jax.jit(optimizer.init)(params),
        tables=exchange.init_tables(table_key(seed)),
        learning_rate_scale=jnp.ones((), jnp.float32),
        key=jax.random.fold_in(root, PURPOSE_STEPS),
    )
