"""What a task is, and the base of networks that have a tower for each.

M3oE's tables (arXiv 2404.18465, table 2) name the same network by its tasks: "MTL" has one for each objective, "MDMT"
one for each portfolio. Sizes by default are ours; no source gives any for all of these networks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import jax
import jax.numpy as jnp

from lattice.baselines.multi_domain import MultiDomainModel, keep_own_domain
from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.mlp import MLPStack
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import VectorModelOptions, build_options
from wukong_jax.ranges import AtLeast, Fraction

Tasks = Literal["objectives", "portfolios"]


@dataclasses.dataclass(frozen=True)
class TowerOptions(VectorModelOptions):
    """Options of every network with towers."""

    # hidden widths of each task's tower, which ends in a logit
    tower_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (64,)
    tower_dropout: Annotated[float, Fraction()] = 0.0  # after each of its hidden layers


@dataclasses.dataclass(frozen=True)
class TaskOptions(TowerOptions):
    """Options of every network that lets the user say what a task is.

    "objectives": O tasks; the domain is one more input vector, learned, where there are several. "portfolios": G * O
    tasks, of which a row's own domain's score it; the domain is no input. With one domain they are the same.
    """

    tasks: Tasks = "portfolios"


TaskOptionsT = TypeVar("TaskOptionsT", bound=TaskOptions)


class TowerModel(MultiDomainModel):
    """Features for each task, a tower on each, and of their logits those of the row's own domain.

    All towers are computed for all rows, as in training of untied weights elsewhere in Lattice: G times the products
    that a row needs, and no copy of a weight.
    """

    @property
    def tasks(self) -> Tasks:
        """What a task is."""
        return self.options.tasks

    @property
    def task_count(self) -> int:
        """T: O, or G * O with the objectives of a domain side by side."""
        shape = self.shape
        return shape.objectives * (shape.domains if self.tasks == "portfolios" else 1)

    def portfolio_logits(self, inputs: jax.Array, domain: jax.Array, filled: jax.Array, train: bool) -> jax.Array:
        """Towers on `task_features`: [B, n, D] to [B, O] float32."""
        if self.tasks == "objectives" and self.shape.domains > 1:
            inputs = jnp.concatenate([inputs, self.domain_token(domain)[:, None]], axis=1)
        features = self.task_features(inputs.reshape(len(inputs), -1), train)
        return self.own_logits(self._towers(features, train), domain)

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """What the towers read, called inside the compact `__call__`.

        Args:
          inputs: [B, n * D] in the compute dtype.
          train: whether dropout is on.

        Returns:
          [T, B, h], or [B, h] where all towers read the same.
        """
        raise TypeError(f"{type(self).__name__}: a model with towers has to say what they read")

    def own_logits(self, logits: jax.Array, domain: jax.Array) -> jax.Array:
        """Of every task's logit [T, B], each row's own: [B, O]."""
        if self.tasks == "portfolios":
            by_domain = logits.reshape(self.shape.domains, self.shape.objectives, -1)
            logits = keep_own_domain(by_domain, domain)
        return logits.T

    def stack(self, counts: tuple[int, ...], hidden: tuple[int, ...], dropout: float, name: str) -> MLPStack:
        """MLPs that end after their last hidden layer, with what all of a model's MLPs share."""
        options = self.options
        dtype, biases = self.shape.dtype, options.mlp_biases
        return MLPStack(hidden, None, dtype, biases, dropout, norm=options.mlp_norm, counts=counts, name=name)

    def _towers(self, features: jax.Array, train: bool) -> jax.Array:
        """[T, B, h] or [B, h] to logits [T, B] float32."""
        options, shape = self.options, self.shape
        towers = MLPStack(
            options.tower_hidden,
            1,
            shape.dtype,
            options.mlp_biases,
            options.tower_dropout,
            options.head_output_scale,
            jnp.float32,
            options.mlp_norm,
            counts=(self.task_count,),
            name="towers",
        )
        return towers(features, train=train)[:, :, 0]


def require_layers(options: VectorModelOptions, *names: str) -> None:
    """Refuses an empty list of widths where a network needs a layer.

    Raises:
      UserError: one of the options names no width.
    """
    for name in names:
        if not getattr(options, name):
            raise UserError(f"{name} = []: needs a layer; add a width")


def build_task_options(kind: type[TaskOptionsT], options: Mapping[str, Any], shape: ModelShape) -> TaskOptionsT:
    """Reads a model's options, as `build_options`; `tasks` is refused with one domain, where both are the same.

    Raises:
      UserError: an unknown option, a value out of range, or one that others or the shape leave without an effect.
    """
    built = build_options(kind, options, shape)
    refuse_idle(built, "tasks", shape.domains == 1, "with one domain", "config.model.options.")
    return built
