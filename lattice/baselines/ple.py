"""PLE, progressive layered extraction (Tang et al., RecSys 2020): levels of shared and of task-specific experts.

At each level (customised gate control, CGC), a task's gate mixes its own experts with the shared ones, and a shared
gate mixes the experts of all tasks and the shared ones. The experts and gates of the next level read the output of the
corresponding gate. The last level has no shared gate.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.gates import SoftmaxGates, mix_own, mix_shared
from lattice.baselines.tasks import (
    ExpertOptions,
    build_task_options,
    count_tasks,
    hidden_stack,
    task_inputs,
    tower_logits,
)
from wukong_jax.layers.mlp import MLPStack
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True)
class PLEOptions(ExpertOptions):
    """`config.model.options` of `lattice.baselines.ple:build`; all levels have the same sizes."""

    levels: Annotated[int, AtLeast(1)] = 2
    shared_experts: Annotated[int, AtLeast(1)] = 2  # per level
    task_experts: Annotated[int, AtLeast(1)] = 2  # per task at each level


class PLE(nn.Module):
    """Levels of customised gate control, then towers."""

    options: PLEOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        own = shared = task_inputs(self, inputs, train=train)
        for level in range(options.levels):
            own, shared = self._extract(level, own, shared, train)
        return tower_logits(own, inputs.domain, options, shape, options.tasks, train=train)

    def _extract(self, level: int, own: jax.Array, shared: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Applies one level; returns the outputs of the tasks' gates, [T, B, h], and of the shared gate, [B, h]."""
        options, shape = self.options, self.shape
        tasks, count, dtype = count_tasks(options.tasks, shape), options.task_experts, shape.dtype

        def experts(counts: tuple[int, ...], name: str) -> MLPStack:
            hidden, dropout = options.expert_hidden, options.expert_dropout
            return hidden_stack(counts, hidden, options, shape, name=f"{name}_{level}", dropout=dropout)

        of_tasks = experts((tasks, count), "task_experts")(own, train=train)
        of_all = experts((options.shared_experts,), "shared_experts")(shared, train=train)
        shares = SoftmaxGates(tasks, count + options.shared_experts, dtype, name=f"gates_{level}")(own)
        mixed = mix_own(shares[:, :, :count], of_tasks) + mix_shared(shares[:, :, count:], of_all)
        if level == options.levels - 1:
            return mixed, shared
        everything = jnp.concatenate([of_tasks.reshape(-1, *of_all.shape[1:]), of_all])
        gate = SoftmaxGates(1, len(everything), dtype, name=f"shared_gate_{level}")
        return mixed, mix_shared(gate(shared), everything)[0]


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `PLEOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `PLE`.

    Raises:
      UserError: an unknown option, a value out of range, or an option that would have no effect.
    """
    return PLE(build_task_options(PLEOptions, options, shape), shape)
