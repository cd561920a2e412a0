"""Training loss of Lattice networks: log loss weighted by portfolio, optional correlation and distillation losses.

    minimised = mean weighted log loss
                + correlation_weight * mean over portfolios of (1 - corr(label, prediction))
                + distillation_weight * mean log loss against a teacher's smoothed labels, over the rows that have them

The correlation loss is from arXiv 2512.09200, section 3.3.4: L(X, Y) = 1 - Cov(X, Y) / (sigma_X sigma_Y) over a batch,
with labels X and predictions Y. Three choices are ours: Y is a probability, each portfolio has a separate term, and the
value of the weight.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.models.outputs import Outputs
from wukong_jax.ranges import AtLeast, Finite, Fraction
from wukong_jax.schema import Schema
from wukong_jax.strict_mapping import build_dataclass
from wukong_jax.training.loss import AdditiveLoss, Loss, LossFunction, observed_weight, sum_log_loss

OPTIONS = "config.loss.options"
# With a smaller variance the correlation is undefined or noise; predictions of a new network are almost equal.
_LEAST_VARIANCE = 1e-8
_SMOOTHING = 0.02


@dataclasses.dataclass(frozen=True)
class LatticeLossOptions:
    """`config.loss.options` of `lattice.losses:build`."""

    correlation_weight: Annotated[float, AtLeast(0)] = 0.0  # of the correlation loss; 0: not computed
    # "[domain/]objective" -> weight
    portfolio_weights: Mapping[str, Annotated[float, Finite(0)]] = dataclasses.field(default_factory=dict)
    # of the log loss against a teacher's labels; rows without them are skipped
    distillation_weight: Annotated[float, AtLeast(0)] = 0.0
    # s: the teacher's probability p becomes (1 - s) p + s / 2
    label_smoothing: Annotated[float, Fraction()] = _SMOOTHING

    def __post_init__(self) -> None:
        """Refuses a smoothing of labels that no loss reads."""
        if not self.distillation_weight and self.label_smoothing != _SMOOTHING:
            raise UserError(
                f"label_smoothing = {self.label_smoothing}: without distillation_weight there is no "
                "teacher's label to smooth; give one, or leave it out"
            )


def compute_correlation_loss(logits: jax.Array, batch: Batch, domains: int) -> jax.Array:
    """Computes the mean over portfolios of 1 - corr(label, predicted probability) within a batch.

    Left out are portfolios without rows in the batch, with labels of one class, or with almost equal predictions
    (standard deviation below 1e-4): their correlation is undefined.

    Args:
      logits: [B, O] float32.
      batch: labels, label_mask [B, O], domain and weight [B] are read.
      domains: G.

    Returns:
      [] float32, from 0 to 2; 0 if no portfolio has a correlation.
    """
    own = jax.nn.one_hot(batch.domain, domains)  # [B, G]
    mass = batch.label_mask * batch.weight[:, None]  # [B, O]
    total = own.T @ mass  # [G, O]
    some = jnp.maximum(total, 1e-9)

    def centre(values: jax.Array) -> jax.Array:
        return values - own @ (own.T @ (mass * values) / some)

    labels, predictions = centre(batch.labels), centre(jax.nn.sigmoid(logits))
    covariance, of_labels, of_predictions = (
        own.T @ (mass * product) / some
        for product in (labels * predictions, jnp.square(labels), jnp.square(predictions))
    )
    defined = (of_labels > _LEAST_VARIANCE) & (of_predictions > _LEAST_VARIANCE)
    deviations = jnp.sqrt(jnp.where(defined, of_labels * of_predictions, 1.0))
    losses = jnp.where(defined, 1.0 - covariance / deviations, 0.0)
    return losses.sum() / jnp.maximum(defined.sum(), 1)


def distillation_weights(batch: Batch) -> jax.Array:
    """Returns the weight of every label in the distillation loss, [B, O] float32; 0 for rows without teacher outputs.

    Only observed objectives count. The batch's extras "teacher_hit" [B, 1] is read.

    Raises:
      UserError: no teacher is joined to the rows.
    """
    if "teacher_logits" not in batch.extras:
        raise UserError(
            f"{OPTIONS}.distillation_weight: the rows have no teacher logits; set config.data.join.factory to "
            "'lattice.teacher.knowledge_transfer:build_join'"
        )
    return observed_weight(batch) * batch.extras["teacher_hit"]


def sum_distillation_loss(outputs: Outputs, batch: Batch, smoothing: float) -> jax.Array:
    """Sums the weighted log loss against a teacher's smoothed probabilities.

    Args:
      outputs: aux "distilled_logits" [B, O] is read if present, else the logits.
      batch: extras "teacher_logits" [B, O] are read, and what `distillation_weights` reads.
      smoothing: see `label_smoothing` of `LatticeLossOptions`.

    Returns:
      [] float32.
    """
    logits = outputs.aux.get("distilled_logits", outputs.logits)
    target = (1 - smoothing) * jax.nn.sigmoid(batch.extras["teacher_logits"]) + smoothing / 2
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, target) * distillation_weights(batch))


class _Totals(NamedTuple):
    """Sums of weights over a batch, by which the terms of the loss are divided."""

    observed: jax.Array  # [] float32, of labels, weighted by portfolio
    taught: jax.Array  # [] float32, of labels with teacher outputs


def build(options: Mapping[str, Any], schema: Schema) -> LossFunction:
    """Builds the loss from a config.

    Args:
      options: keys of `LatticeLossOptions`.
      schema: provides the names of domains and objectives.

    Returns:
      A function of outputs and batch, an `AdditiveLoss` without a correlation loss; the log loss it reports has no
      portfolio weights.

    Raises:
      UserError: an unknown option or portfolio, or a value out of range.
    """
    built = build_dataclass(LatticeLossOptions, options, OPTIONS)
    weights = _read_weights(built.portfolio_weights, schema)
    domains = len(weights)

    def weigh(batch: Batch) -> jax.Array:
        observed = observed_weight(batch)
        return observed * (jax.nn.one_hot(batch.domain, domains) @ weights) if (weights != 1).any() else observed

    def sum_weights(batch: Batch) -> _Totals:
        taught = distillation_weights(batch).sum() if built.distillation_weight else jnp.zeros(())
        return _Totals(weigh(batch).sum(), taught)

    def compute_part(outputs: Outputs, batch: Batch, totals: _Totals) -> Loss:
        losses = optax.sigmoid_binary_cross_entropy(outputs.logits, batch.labels)
        minimised = jnp.sum(losses * weigh(batch)) / jnp.maximum(totals.observed, 1e-9)
        if built.distillation_weight:
            taught = sum_distillation_loss(outputs, batch, built.label_smoothing) / jnp.maximum(totals.taught, 1e-9)
            minimised += built.distillation_weight * taught
        return Loss(minimised, *sum_log_loss(outputs.logits, batch))

    additive = AdditiveLoss(sum_weights, compute_part)
    if not built.correlation_weight:
        return additive

    def compute_loss(outputs: Outputs, batch: Batch) -> Loss:
        loss = additive(outputs, batch)
        correlation = compute_correlation_loss(outputs.logits, batch, domains)
        return loss._replace(minimised=loss.minimised + built.correlation_weight * correlation)

    return compute_loss


def _read_weights(weights: Mapping[str, float], schema: Schema) -> np.ndarray:
    """Returns the portfolio weights, [G, O] float32."""
    domains, objectives = schema.domain_values or ("all",), [label.name for label in schema.labels]
    made = np.ones((len(domains), len(objectives)), np.float32)
    # Weights of single portfolios come last and override those of objectives.
    for name, weight in sorted(weights.items(), key=lambda item: "/" in item[0]):
        domain, _, objective = name.rpartition("/")
        if objective not in objectives or (domain and domain not in domains):
            raise UserError(
                f"{OPTIONS}.portfolio_weights.{name}: no such portfolio; objectives are {', '.join(objectives)}, "
                f"domains {', '.join(domains)}"
            )
        rows = slice(None) if not domain else domains.index(domain)
        made[rows, objectives.index(objective)] = weight
    return made
