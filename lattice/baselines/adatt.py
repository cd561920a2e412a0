"""AdaTT-sp, adaptive task-to-task fusion (arXiv 2304.04959): levels of task-specific experts, mixed by task gates.

The output of a level for task t is a softmax-gated sum of all tasks' experts, plus a linear combination of the task's
own experts with weights that do not depend on the input, so that the gate learns only a residual. The experts and the
gate of a task read its output from the previous level.

Choices of ours: gates have no biases, as in the other networks here (in the published code they have); the weights of
the linear combination start at 1 / e (in the published code at random). As in the published code, a single expert per
task has weight 1 and no parameter.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.gates import SoftmaxGates, mix_shared
from lattice.baselines.tasks import (
    ExpertOptions,
    build_task_options,
    count_tasks,
    hidden_stack,
    task_inputs,
    tower_logits,
)
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True)
class AdaTTOptions(ExpertOptions):
    """`config.model.options` of `lattice.baselines.adatt:build`; all levels have the same sizes."""

    levels: Annotated[int, AtLeast(1)] = 2
    task_experts: Annotated[int, AtLeast(1)] = 2  # e, experts per task at each level


class AdaTT(nn.Module):
    """Levels of adaptive task-to-task fusion, then towers."""

    options: AdaTTOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        features = task_inputs(self, inputs, train=train)
        for level in range(options.levels):
            features = self._fuse(level, features, train)
        return tower_logits(features, inputs.domain, options, shape, options.tasks, train=train)

    def _fuse(self, level: int, features: jax.Array, train: bool) -> jax.Array:
        """Applies one level to [T, B, h], or to [B, n * D] for the first level, and returns [T, B, h]."""
        options, shape = self.options, self.shape
        tasks, count, dropout = count_tasks(options.tasks, shape), options.task_experts, options.expert_dropout
        sizes = (tasks, count), options.expert_hidden
        stack = hidden_stack(*sizes, options, shape, name=f"experts_{level}", dropout=dropout)
        experts = stack(features, train=train)
        shares = SoftmaxGates(tasks, tasks * count, shape.dtype, name=f"gates_{level}")(features)
        of_all = mix_shared(shares, experts.reshape(-1, *experts.shape[2:]))
        if count == 1:
            return of_all + experts[:, 0]
        own = self.param(f"own_{level}", nn.initializers.constant(1 / count), (tasks, count))
        return of_all + jnp.einsum("te,tebh->tbh", own.astype(experts.dtype), experts)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `AdaTTOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      An `AdaTT`.

    Raises:
      UserError: an unknown option, a value out of range, or an option that would have no effect.
    """
    return AdaTT(build_task_options(AdaTTOptions, options, shape), shape)
