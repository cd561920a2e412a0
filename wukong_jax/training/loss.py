"""Provides the default training loss, the mean log loss of the observed objectives, and the loss interface."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class AdditiveLoss:
    """A loss that is a sum over rows once the totals of the whole batch, such as its weight, are known.

    The losses of parts of a batch, each with the totals of the whole batch, add up to the loss of the whole batch. The
    train step needs this to work in microbatches. A loss that is no such sum is a plain function of outputs and batch.

    Attributes:
      totals: function from the whole batch to a pytree of totals, which must not depend on the outputs.
      of_part: function from the outputs and columns of a part of the batch and the totals to the part's loss.
    """

    totals: Callable[[Batch], Any]
    of_part: Callable[[Outputs, Batch, Any], Loss]

    def __call__(self, outputs: Outputs, batch: Batch) -> Loss:
        """Computes the loss of a whole batch."""
        return self.of_part(outputs, batch, self.totals(batch))


def sum_log_loss(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Sums the weighted log loss over the observed objectives of a batch.

    Args:
      logits: [B, O] float32.
      batch: the batch; its labels [B, O], label_mask [B, O] and weight [B] are read.

    Returns:
      (sum of weighted losses, sum of weights), both [] float32; their quotient is the mean loss in nats.
    """
    weight = observed_weight(batch)
    loss = optax.sigmoid_binary_cross_entropy(logits, batch.labels)
    return jnp.sum(loss * weight), jnp.sum(weight)


def observed_weight(batch: Batch) -> jax.Array:
    """Returns the weight of every label of a batch, [B, O] float32; 0 for labels that are masked and for padding."""
    return batch.label_mask * batch.weight[:, None]


def _mean_log_loss_of_part(outputs: Outputs, batch: Batch, total_weight: jax.Array) -> Loss:
    loss_sum, weight_sum = sum_log_loss(outputs.logits, batch)
    return Loss(loss_sum / jnp.maximum(total_weight, 1e-9), loss_sum, weight_sum)


# The mean log loss over all observed objectives of all rows.
mean_log_loss = AdditiveLoss(lambda batch: jnp.sum(observed_weight(batch)), _mean_log_loss_of_part)


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
