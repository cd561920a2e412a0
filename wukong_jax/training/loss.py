"""Provides the default training loss, the mean log loss of the observed objectives, and the loss interface."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.models.outputs import Outputs
from wukong_jax.schema import Schema


class Loss(NamedTuple):
    """The loss of one batch."""

    minimised: jax.Array  # [] float32, the value that training minimises
    log_loss_sum: jax.Array  # [] float32, weighted log loss in nats, for the log
    weight_sum: jax.Array  # [] float32


LossFunction = Callable[[Outputs, Batch], Loss]


def sum_log_loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Sums the weighted log loss over the observed objectives of a batch.

    Args:
      logits: [B, O] float32.
      batch: the batch; its labels [B, O], label_mask [B, O] and weight [B] are read.

    Returns:
      (sum of weighted losses, sum of weights), both [] float32; their quotient is the mean loss in nats.
    """
    weight = batch.label_mask * batch.weight[:, None]
    loss = optax.sigmoid_binary_cross_entropy(logits, batch.labels)
    return jnp.sum(loss * weight), jnp.sum(weight)


def mean_log_loss(outputs: Outputs, batch: Batch) -> Loss:
    """Computes the mean log loss over all observed objectives of all rows."""
    loss_sum, weight_sum = sum_log_loss(outputs.logits, batch)
    return Loss(loss_sum / jnp.maximum(weight_sum, 1e-9), loss_sum, weight_sum)


def build(options: Mapping[str, Any], schema: Schema) -> LossFunction:
    """Builds the default loss, `mean_log_loss`.

    Args:
      options: `config.loss.options`; must be empty.
      schema: resolved schema, for losses that depend on objectives or domains; unused here.

    Raises:
      UserError: an option was given.
    """
    del schema
    if options:
        raise UserError(f"config.loss.options.{next(iter(options))}: the mean log loss has no options; leave it out")
    return mean_log_loss
