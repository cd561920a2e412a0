"""The train step: tables are not parameters (see docs/architecture.md).

Ids are routed and rows gathered outside the differentiated function; the loss is differentiated with
respect to (dense weights, gathered rows); dense gradients go to optax, row gradients to the sparse update.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wukong_jax.data.batch import Batch
from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.models.outputs import Outputs
from wukong_jax.training.network import Network
from wukong_jax.training.optimizers import Schedule
from wukong_jax.training.train_state import PURPOSE_DROPOUT, PURPOSE_ROUNDING, TrainState

StepMetrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
PredictStep = Callable[[Any, Any, Batch], jax.Array]


def compute_loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Weighted log loss over the observed objectives of a batch.

    Args:
      logits: [B, O] float32.
      batch: labels [B, O], label_mask [B, O] and weight [B] are read.

    Returns:
      (sum of weighted losses, sum of weights), both [] float32; their quotient is the mean loss in nats.
    """
    weight = batch.label_mask * batch.weight[:, None]
    loss = optax.sigmoid_binary_cross_entropy(logits, batch.labels)
    return jnp.sum(loss * weight), jnp.sum(weight)


def run_network(
    network: Network,
    exchange: Exchange,
    params: Any,
    rows: Any,
    routed: Any,
    batch: Batch,
    *,
    train: bool,
    rngs: dict[str, jax.Array] | None = None,
) -> Outputs:
    """What is differentiated: rows to the batch's devices, through tower modules where there are any, and the model."""

    def compress(tokens: jax.Array) -> jax.Array:
        return network.apply({"params": params}, tokens, method=network.compress)  # type: ignore[return-value]

    collected = exchange.collect(rows, routed, compress)
    inputs = (batch.dense, collected, batch.ids, batch.domain, batch.extras)
    return network.apply({"params": params}, *inputs, train=train, rngs=rngs)  # type: ignore[return-value]


def build_train_step(
    network: Network, exchange: Exchange, optimizer: optax.GradientTransformation, schedule: Schedule
) -> TrainStep:
    """Builds the pure step function (state, batch) -> (state, metrics); jit it with the state donated.

    The metrics are scalars: loss_sum and weight_sum of the batch, gradient_norm of the dense weights,
    learning_rate_factor, and finite (1 where loss and all gradients are finite).
    """

    def loss_fn(params: Any, rows: Any, routed: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        outputs = run_network(network, exchange, params, rows, routed, batch, train=True, rngs={"dropout": key})
        loss_sum, weight_sum = compute_loss(outputs.logits, batch)
        return loss_sum / jnp.maximum(weight_sum, 1e-9), (loss_sum, weight_sum)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        step_key = jax.random.fold_in(state.key, state.step)
        routed = exchange.route_ids(batch.ids)
        rows = exchange.gather(state.tables, routed)
        differentiate = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (loss, (loss_sum, weight_sum)), (gradients, row_gradients) = differentiate(
            state.params, rows, routed, batch, jax.random.fold_in(step_key, PURPOSE_DROPOUT)
        )
        factor = schedule(state.step) * state.learning_rate_scale
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: factor * u, updates))
        rounding_key = jax.random.fold_in(step_key, PURPOSE_ROUNDING)
        tables = exchange.apply_row_gradients(
            state.tables, routed, rows, row_gradients, state.step, factor, rounding_key
        )
        gradient_norm = optax.global_norm(gradients)
        row_norm = optax.global_norm(row_gradients)
        metrics = {
            "loss_sum": loss_sum,
            "weight_sum": weight_sum,
            "gradient_norm": gradient_norm,
            "learning_rate_factor": factor,
            "finite": jnp.isfinite(loss + gradient_norm + row_norm).astype(jnp.float32),
        }
        state = state.replace(step=state.step + 1, params=params, optimizer_state=optimizer_state, tables=tables)
        return state, metrics

    return train_step


def build_predict_step(network: Network, exchange: Exchange) -> PredictStep:
    """Builds the pure function (params, tables, batch) -> logits [B, O] float32, without dropout."""

    def predict_step(params: Any, tables: Any, batch: Batch) -> jax.Array:
        routed = exchange.route_ids(batch.ids)
        rows = exchange.gather(tables, routed)
        return run_network(network, exchange, params, rows, routed, batch, train=False).logits

    return predict_step
