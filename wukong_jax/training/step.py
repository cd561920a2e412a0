"""Builds the train and predict steps. Tables are not parameters, see docs/architecture.md.

Ids are routed and rows gathered outside the differentiated function. The loss is differentiated with respect to the
dense weights and the gathered rows. Optax applies the dense gradients, the sparse update applies the row gradients.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.layers.batch_rows import describe_rows
from wukong_jax.layers.rematerialise import rematerialise_layers
from wukong_jax.models.outputs import Outputs
from wukong_jax.training.dense_shards import DenseShards
from wukong_jax.training.length_parts import LengthParts, differentiate_by_length, sort_by_length
from wukong_jax.training.loss import AdditiveLoss, Loss, LossFunction, mean_log_loss
from wukong_jax.training.microbatches import differentiate_in_parts
from wukong_jax.training.network import Network
from wukong_jax.training.optimizers import Schedule
from wukong_jax.training.state import PURPOSE_DROPOUT, PURPOSE_ROUNDING, TrainState

StepMetrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
PredictStep = Callable[[Any, Any, Any, Batch], jax.Array]


class _Rest(NamedTuple):
    """Inputs of the loss that all parts of a batch share."""

    key: jax.Array  # random key of dropout
    totals: Any  # of an additive loss


def run_network(
    network: Network,
    exchange: Exchange,
    variables: Mapping[str, Any],
    rows: Any,
    routed: Any,
    batch: Batch,
    *,
    train: bool,
    rngs: dict[str, jax.Array] | None = None,
    shards: DenseShards | None = None,
) -> tuple[Outputs, Any]:
    """Runs the network on gathered rows through the exchange; this function is differentiated.

    Start logits are added here, after the exchange, because an exchange may run the model in parts. With `shards`, the
    weights among the variables are spread (`DenseShards.spread`).

    Returns:
      The outputs, and the model's running statistics after this batch, which change only in training.
    """

    def run(bound: Network) -> Outputs:
        return bound.start_at_rate(exchange.run_network(bound, rows, routed, batch, train=train), batch.domain)

    if shards is not None:
        with shards.running(network, variables, train, rngs) as running:
            outputs = nn.apply(run, network)(variables)
        return outputs, running.statistics
    if not train:
        return nn.apply(run, network)(variables), variables[STATISTICS]
    outputs, changed = nn.apply(run, network, mutable=[STATISTICS])(variables, rngs=rngs)
    return outputs, changed.get(STATISTICS, {})


def route_batch(exchange: Exchange, batch: Batch) -> Any:
    """Routes the ids of a batch, with its bags padded or laid flat as the batch says."""
    return exchange.route_ids(batch.ids) if batch.bag_share is None else exchange.route_ids(batch.ids, batch.bag_share)


def build_train_step(
    network: Network,
    exchange: Exchange,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    compute_loss: LossFunction = mean_log_loss,
    parts: int = 1,
    shards: DenseShards | None = None,
    rematerialise: bool = False,
    length_parts: LengthParts | None = None,
) -> TrainStep:
    """Builds the pure function (state, batch) -> (state, metrics), to be jitted with the state donated.

    The network runs on `parts` microbatches one after the other, see `training.microbatches`; with `shards`, on each
    device's rows with weights gathered where they are read; with `rematerialise`, layers are computed again in the
    backward pass; with `length_parts`, instead of `parts`, on parts of rows with sequences of similar lengths.

    The metrics are scalars: loss_sum and weight_sum of the batch, gradient_norm of the dense weights,
    learning_rate_factor, and finite (1 if the loss and all gradients are finite, else 0); with `length_parts` also
    sequence_fill and sequence_places, see `length_parts.PartPlan`.
    """

    def loss_fn(
        params: Any, rows: Any, statistics: Any, routed: Any, batch: Batch, numbers: jax.Array, rest: _Rest
    ) -> tuple[jax.Array, tuple[Loss, Any]]:
        variables = {"params": params, STATISTICS: statistics}
        rngs = {"dropout": rest.key}
        layers = rematerialise_layers() if rematerialise else contextlib.nullcontext()
        with describe_rows(numbers, batch.weight > 0), layers:
            outputs, statistics = run_network(
                network, exchange, variables, rows, routed, batch, train=True, rngs=rngs, shards=shards
            )
        if isinstance(compute_loss, AdditiveLoss):
            loss = compute_loss.of_part(outputs, batch, rest.totals)
        else:
            loss = compute_loss(outputs, batch)
        return loss.minimised, (loss, statistics)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        step_key = jax.random.fold_in(state.key, state.step)
        numbers, plan = jnp.arange(len(batch.ids)), None
        if length_parts is not None:
            batch, numbers, plan = sort_by_length(exchange, length_parts, batch, numbers)
        routed = route_batch(exchange, batch)
        rows = exchange.gather(state.tables, routed)
        totals = compute_loss.totals(batch) if isinstance(compute_loss, AdditiveLoss) else None
        rest = _Rest(jax.random.fold_in(step_key, PURPOSE_DROPOUT), totals)

        def differentiate(params: Any, statistics: Any, rows: Any, routed: Any, batch: Batch, numbers: Any) -> Any:
            differentiated = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
            (_, found), (gradients, row_gradients) = differentiated(
                params, rows, statistics, routed, batch, numbers, rest
            )
            return found, (gradients if shards is None else shards.place(gradients), row_gradients)

        params = state.params if shards is None else shards.spread(state.params)
        by_row = (rows, exchange.keep_by_row(routed), batch, numbers)
        if length_parts is not None and plan is not None:
            by_length = functools.partial(differentiate_by_length, differentiate, exchange, length_parts, plan)
            found, both = by_length(params, state.statistics, by_row)
        elif parts > 1:
            in_parts = functools.partial(differentiate_in_parts, differentiate, exchange, parts)
            found, both = in_parts(params, state.statistics, by_row)
        else:
            found, both = differentiate(params, state.statistics, *by_row)
        (loss, statistics), (gradients, row_gradients) = found, both
        gradients = gradients if shards is None else shards.reduce(gradients)
        factor = schedule(state.step) * state.learning_rate_scale
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, jax.tree.map(lambda u: factor * u, updates))
        row_step = RowStep(state.step, factor, jax.random.fold_in(step_key, PURPOSE_ROUNDING))
        tables = exchange.apply_row_gradients(state.tables, routed, rows, row_gradients, row_step)
        gradient_norm = optax.global_norm(gradients)
        row_norm = optax.global_norm(row_gradients)
        metrics = {
            "loss_sum": loss.log_loss_sum,
            "weight_sum": loss.weight_sum,
            "gradient_norm": gradient_norm,
            "learning_rate_factor": factor,
            "finite": jnp.isfinite(loss.minimised + gradient_norm + row_norm).astype(jnp.float32),
        }
        if plan is not None:
            metrics |= {"sequence_fill": plan.fill, "sequence_places": plan.places}
        state = state.replace(
            step=state.step + 1, params=params, statistics=statistics, optimizer_state=optimizer_state, tables=tables
        )
        return state, metrics

    return train_step


def build_forward(
    network: Network, exchange: Exchange, shards: DenseShards | None = None
) -> Callable[[Any, Any, Any, Batch], Outputs]:
    """Builds the pure function (params, statistics, tables, batch) -> outputs, without dropout."""

    def forward(params: Any, statistics: Any, tables: Any, batch: Batch) -> Outputs:
        routed = route_batch(exchange, batch)
        rows = exchange.gather(tables, routed)
        variables = {"params": params if shards is None else shards.spread(params), STATISTICS: statistics}
        by_row = exchange.keep_by_row(routed)
        return run_network(network, exchange, variables, rows, by_row, batch, train=False, shards=shards)[0]

    return forward


def build_predict_step(network: Network, exchange: Exchange, shards: DenseShards | None = None) -> PredictStep:
    """Builds the pure function (params, statistics, tables, batch) -> logits [B, O] float32, without dropout."""
    forward = build_forward(network, exchange, shards)
    return lambda params, statistics, tables, batch: forward(params, statistics, tables, batch).logits
