"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018): shared experts, with a gate and a tower for each task."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn

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
class MMoEOptions(ExpertOptions):
    """`config.model.options` of `lattice.baselines.mmoe:build`."""

    experts: Annotated[int, AtLeast(1)] = 4  # E


class MMoE(nn.Module):
    """tower_t(sum over i of softmax(W_t x)_i E_i(x))."""

    options: MMoEOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        flat = task_inputs(self, inputs, train=train)
        sizes = (options.experts,), options.expert_hidden
        experts = hidden_stack(*sizes, options, shape, name="experts", dropout=options.expert_dropout)
        gates = SoftmaxGates(count_tasks(options.tasks, shape), options.experts, shape.dtype, name="gates")
        features = mix_shared(gates(flat), experts(flat, train=train))
        return tower_logits(features, inputs.domain, options, shape, options.tasks, train=train)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `MMoEOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      An `MMoE`.

    Raises:
      UserError: an unknown option, a value out of range, or an option that would have no effect.
    """
    return MMoE(build_task_options(MMoEOptions, options, shape), shape)
