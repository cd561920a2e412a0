"""MMoE (Ma et al., KDD 2018): experts that all tasks share, and for each task a gate and a tower."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax

from lattice.baselines.gates import SoftmaxGates, mix_shared
from lattice.baselines.tasks import TaskOptions, TowerModel, build_task_options, require_layers
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class MMoEOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.mmoe:build`."""

    experts: Annotated[int, AtLeast(1)] = 4  # E
    expert_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128,)  # widths of each expert, which ends after the last
    expert_dropout: Annotated[float, Fraction()] = 0.0  # after each of its layers

    def __post_init__(self) -> None:
        """Refuses idle options, and experts without a layer."""
        super().__post_init__()
        require_layers(self, "expert_hidden")


class MMoE(TowerModel):
    """tower_t(sum over i of softmax(W_t x)_i E_i(x))."""

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """[B, n * D] to [T, B, h]."""
        options = self.options
        experts = self.stack((options.experts,), options.expert_hidden, options.expert_dropout, "experts")
        shares = SoftmaxGates(self.task_count, options.experts, self.shape.dtype, name="gates")(inputs)
        return mix_shared(shares, experts(inputs, train=train))


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `MMoEOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      An `MMoE`.

    Raises:
      UserError: an unknown option, a value out of range, or one that others leave without an effect.
    """
    return MMoE(build_task_options(MMoEOptions, options, shape), shape)
