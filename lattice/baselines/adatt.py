"""AdaTT-sp (arXiv 2304.04959): levels of experts that belong to tasks, every task seeing all of them and its own twice.

A level's output for task t is a softmax-gated sum of all tasks' experts, plus its own experts in a linear combination
that no input changes: fusion learns a residual over what the task makes for itself. A task's experts and gate read what
the level before made for it.

Our choices: gates have no biases, as in the other networks here (the published code's have); the weights of the linear
combination start at 1 / e (there at random); a single own expert has weight 1 and no parameter, as there.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.gates import SoftmaxGates, mix_shared
from lattice.baselines.tasks import TaskOptions, TowerModel, build_task_options, require_layers
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class AdaTTOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.adatt:build`; all levels have the same sizes."""

    levels: Annotated[int, AtLeast(1)] = 2
    task_experts: Annotated[int, AtLeast(1)] = 2  # e, of each task at each level
    expert_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)  # widths of each expert, which ends after the last
    expert_dropout: Annotated[float, Fraction()] = 0.0  # after each of its layers

    def __post_init__(self) -> None:
        """Refuses idle options, and experts without a layer."""
        super().__post_init__()
        require_layers(self, "expert_hidden")


class AdaTT(TowerModel):
    """Levels of adaptive task-to-task fusion, then towers."""

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """[B, n * D] to [T, B, h]."""
        options, tasks = self.options, self.task_count
        count = options.task_experts
        features = inputs
        for level in range(options.levels):
            stack = self.stack((tasks, count), options.expert_hidden, options.expert_dropout, f"experts_{level}")
            experts = stack(features, train=train)
            shares = SoftmaxGates(tasks, tasks * count, self.shape.dtype, name=f"gates_{level}")(features)
            of_all = mix_shared(shares, experts.reshape(-1, *experts.shape[2:]))
            if count == 1:
                features = of_all + experts[:, 0]
            else:
                own = self.param(f"own_{level}", nn.initializers.constant(1 / count), (tasks, count))
                features = of_all + jnp.einsum("te,tebh->tbh", own.astype(experts.dtype), experts)
        return features


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `AdaTTOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      An `AdaTT`.

    Raises:
      UserError: an unknown option, a value out of range, or one that others leave without an effect.
    """
    return AdaTT(build_task_options(AdaTTOptions, options, shape), shape)
