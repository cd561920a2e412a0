"""Tasks, either objectives or portfolios, and the base class of networks with a tower for each task.

M3oE (arXiv 2404.18465, table 2) names variants of a network by their tasks: "MTL" has one task per objective, "MDMT"
one per portfolio. The default sizes are our choice; no source gives sizes for all of these networks.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lattice.baselines.mlp_stack import MLPStack
from lattice.baselines.multi_domain import MultiDomainModel, keep_own_domain
from wukong_jax.errors import UserError
from wukong_jax.models.vector_model import VectorModelOptions

Tasks = Literal["objectives", "portfolios"]


@dataclasses.dataclass(frozen=True)
class TowerOptions(VectorModelOptions):
    """Options of all networks with towers."""

    tower_hidden: tuple[int, ...] = (64,)  # hidden widths of each task's tower, which outputs a logit
    tower_dropout: float = 0.0  # after each hidden layer of a tower


@dataclasses.dataclass(frozen=True)
class TaskOptions(TowerOptions):
    """Options of networks in which the user chooses what a task is.

    "objectives": O tasks; with several domains, a learned domain vector is an additional input. "portfolios": G * O
    tasks; a row is scored by the tasks of its domain, and the domain is not an input. With one domain both are equal.
    """

    tasks: Tasks = "portfolios"


class TowerModel(MultiDomainModel):
    """Computes features and a tower for each task, and keeps the logits of each row's domain.

    All towers are computed for all rows, as with untied weights in Lattice networks. This takes G times the products
    that a row needs, but copies no weights.
    """

    @property
    def tasks(self) -> Tasks:
        """Whether tasks are objectives or portfolios."""
        return self.options.tasks

    @property
    def task_count(self) -> int:
        """Number of tasks T: O, or G * O with the objectives of a domain next to each other."""
        shape = self.shape
        return shape.objectives * (shape.domains if self.tasks == "portfolios" else 1)

    def portfolio_logits(self, inputs: jax.Array, domain: jax.Array, filled: jax.Array, train: bool) -> jax.Array:
        """Applies the towers to `task_features`: [B, n, D] to [B, O] float32."""
        if self.tasks == "objectives" and self.shape.domains > 1:
            inputs = jnp.concatenate([inputs, self.domain_token(domain)[:, None]], axis=1)
        features = self.task_features(inputs.reshape(len(inputs), -1), train)
        return self.own_logits(self._towers(features, train), domain)

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """Computes the towers' inputs; subclasses implement it, and the compact `__call__` calls it.

        Args:
          inputs: [B, n * D] in the compute dtype.
          train: whether to apply dropout.

        Returns:
          [T, B, h], or [B, h] if all towers read the same features.
        """
        raise TypeError(f"{type(self).__name__}: a model with towers has to say what they read")

    def own_logits(self, logits: jax.Array, domain: jax.Array) -> jax.Array:
        """Selects from the logits of all tasks, [T, B], those of each row's domain: [B, O]."""
        if self.tasks == "portfolios":
            by_domain = logits.reshape(self.shape.domains, self.shape.objectives, -1)
            logits = keep_own_domain(by_domain, domain)
        return logits.T

    def stack(self, counts: tuple[int, ...], hidden: tuple[int, ...], dropout: float, name: str) -> MLPStack:
        """Builds MLPs that end after their last hidden layer, with the options common to all MLPs of the model."""
        options = self.options
        return MLPStack(
            counts, hidden, None, self.shape.dtype, options.mlp_biases, dropout, norm=options.mlp_norm, name=name
        )

    def _towers(self, features: jax.Array, train: bool) -> jax.Array:
        """Maps [T, B, h] or [B, h] to logits [T, B] float32."""
        options, shape = self.options, self.shape
        towers = MLPStack(
            (self.task_count,),
            options.tower_hidden,
            1,
            shape.dtype,
            options.mlp_biases,
            options.tower_dropout,
            options.head_output_scale,
            jnp.float32,
            options.mlp_norm,
            name="towers",
        )
        return towers(features, train=train)[:, :, 0]


def require_layers(options: VectorModelOptions, *names: str) -> None:
    """Checks that lists of widths are not empty.

    Raises:
      UserError: one of the options is empty.
    """
    for name in names:
        if not getattr(options, name):
            raise UserError(f"{name} = []: needs a layer; add a width")


def require_sizes(options: VectorModelOptions, *names: str) -> None:
    """Checks that counts are at least 1.

    Raises:
      UserError: one of the options is below 1.
    """
    for name in names:
        if getattr(options, name) < 1:
            raise UserError(f"{name} = {getattr(options, name)}: at least 1")
