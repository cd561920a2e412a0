"""PLE (Tang et al., RecSys 2020): levels of shared experts and of each task's own, that keep the two apart.

At a level (CGC), a task's gate mixes its own experts with the shared ones, and a shared gate mixes the experts of all
tasks and the shared ones. The next level's experts and gates read what the gate before them made. The last level has no
shared gate.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.gates import SoftmaxGates, mix_own, mix_shared
from lattice.baselines.tasks import TaskOptions, TowerModel, build_task_options, require_layers
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class PLEOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.ple:build`; all levels have the same sizes."""

    levels: Annotated[int, AtLeast(1)] = 2
    shared_experts: Annotated[int, AtLeast(1)] = 2  # of each level
    task_experts: Annotated[int, AtLeast(1)] = 2  # of each task at each level
    expert_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)  # widths of each expert, which ends after the last
    expert_dropout: Annotated[float, Fraction()] = 0.0  # after each of its layers

    def __post_init__(self) -> None:
        """Refuses idle options, and experts without a layer."""
        super().__post_init__()
        require_layers(self, "expert_hidden")


class PLE(TowerModel):
    """Levels of customised gate control, then towers."""

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """[B, n * D] to [T, B, h]."""
        own = shared = inputs
        for level in range(self.options.levels):
            own, shared = self._extract(level, own, shared, train)
        return own

    def _extract(self, level: int, own: jax.Array, shared: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """One level: what each task's gate makes, [T, B, h], and what the shared gate makes, [B, h]."""
        options, tasks, dtype = self.options, self.task_count, self.shape.dtype
        hidden, dropout, count = options.expert_hidden, options.expert_dropout, options.task_experts
        of_tasks = self.stack((tasks, count), hidden, dropout, f"task_experts_{level}")(own, train=train)
        of_all = self.stack((options.shared_experts,), hidden, dropout, f"shared_experts_{level}")(shared, train=train)
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
      UserError: an unknown option, a value out of range, or one that others leave without an effect.
    """
    return PLE(build_task_options(PLEOptions, options, shape), shape)
