"""Defines tasks, which are either objectives or portfolios, and the shared parts of networks with a tower per task.

M3oE (arXiv 2404.18465, table 2) names variants of a network by their tasks: "MTL" has one task per objective, "MDMT"
one per portfolio. The default sizes are our choice; no source gives sizes for all of these networks.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.multi_domain import domain_token, keep_own_domain
from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.layers.mlp import MLPStack
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import VectorModelOptions, build_options, input_vectors
from wukong_jax.ranges import AtLeast, Fraction

Tasks = Literal["objectives", "portfolios"]


@dataclasses.dataclass(frozen=True)
class TowerOptions(VectorModelOptions):
    """Options of all networks with towers."""

    # hidden widths of each task's tower, which outputs a logit
    tower_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (64,)
    tower_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer of a tower


@dataclasses.dataclass(frozen=True)
class TaskOptions(TowerOptions):
    """Options of networks in which the user chooses what a task is.

    "objectives": O tasks; with several domains, a learned domain vector is an additional input. "portfolios": G * O
    tasks; a row is scored by the tasks of its domain, and the domain is not an input. With one domain both are equal.
    """

    tasks: Tasks = "portfolios"


@dataclasses.dataclass(frozen=True)
class ExpertOptions(TaskOptions):
    """Options of networks with experts."""

    # layer widths of each expert; the last one is its output
    expert_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)
    expert_dropout: Annotated[float, Fraction()] = 0.0  # after each layer of an expert

    def __post_init__(self) -> None:
        """Refuses idle options, and experts without a layer."""
        super().__post_init__()
        require_layers(self, "expert_hidden")


TaskOptionsT = TypeVar("TaskOptionsT", bound=TaskOptions)


def count_tasks(tasks: Tasks, shape: ModelShape) -> int:
    """Returns T, the number of tasks: O, or G * O with the objectives of each domain adjacent."""
    return shape.objectives * (shape.domains if tasks == "portfolios" else 1)


def task_inputs(module: nn.Module, inputs: ModelInputs, *, train: bool) -> jax.Array:
    """Returns the input of all tasks: a row's vectors, plus a domain token if tasks are objectives of several domains.

    Args:
      module: a model with `options` (`TaskOptions`) and `shape`, in whose compact method this is called.
      inputs: the model's inputs.
      train: whether dropout is on.

    Returns:
      [B, n * D] in the compute dtype.
    """
    options, shape = module.options, module.shape  # type: ignore[attr-defined]
    vectors = input_vectors(inputs, options, shape, train=train)
    if options.tasks == "objectives" and shape.domains > 1:
        vectors = jnp.concatenate([vectors, domain_token(module, inputs.domain, shape)[:, None]], axis=1)
    return vectors.reshape(vectors.shape[0], -1)


def hidden_stack(
    counts: tuple[int, ...],
    hidden: tuple[int, ...],
    options: VectorModelOptions,
    shape: ModelShape,
    *,
    name: str,
    dropout: float = 0.0,
) -> MLPStack:
    """Builds MLPs without an output layer, with the options that all MLPs of a model share."""
    return MLPStack(
        hidden, None, shape.dtype, options.mlp_biases, dropout, norm=options.mlp_norm, counts=counts, name=name
    )


def tower_logits(
    features: jax.Array, domain: jax.Array, options: TowerOptions, shape: ModelShape, tasks: Tasks, *, train: bool
) -> Outputs:
    """Applies a tower for each task, as submodule "towers", and selects the logits of each row's domain.

    All towers are computed for all rows, as for untied weights elsewhere in Lattice in training. This takes G times the
    matrix products that a row needs, but copies no weights.

    Args:
      features: [T, B, h], or [B, h] if all towers have the same input.
      domain: [B] int32.
      options: the towers' options.
      shape: sizes and compute dtype.
      tasks: what a task is.
      train: whether dropout is on.

    Returns:
      Outputs with logits [B, O] float32.
    """
    towers = MLPStack(
        options.tower_hidden,
        1,
        shape.dtype,
        options.mlp_biases,
        options.tower_dropout,
        options.head_output_scale,
        jnp.float32,
        options.mlp_norm,
        counts=(count_tasks(tasks, shape),),
        name="towers",
    )
    return Outputs(own_logits(towers(features, train=train)[:, :, 0], domain, shape, tasks), {})


def own_logits(logits: jax.Array, domain: jax.Array, shape: ModelShape, tasks: Tasks) -> jax.Array:
    """Selects the logits [B, O] of each row's domain from those of all tasks [T, B]."""
    if tasks == "portfolios":
        logits = keep_own_domain(logits.reshape(shape.domains, shape.objectives, -1), domain)
    return logits.T


def require_layers(options: VectorModelOptions, *names: str) -> None:
    """Checks that lists of widths are not empty.

    Raises:
      UserError: one of the options is empty.
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
