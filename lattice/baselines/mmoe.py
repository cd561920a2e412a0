"""MMoE, multi-gate mixture of experts (Ma et al., KDD 2018): shared experts, with a gate and a tower for each task."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lattice.baselines.gates import SoftmaxGates, mix_shared
from lattice.baselines.tasks import TaskOptions, TowerModel, require_layers, require_sizes
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import build_options


@dataclasses.dataclass(frozen=True)
class MMoEOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.mmoe:build`."""

    experts: int = 4  # E
    expert_hidden: tuple[int, ...] = (128,)  # layer widths of each expert; the last one is its output
    expert_dropout: float = 0.0  # after each layer of an expert

    def __post_init__(self) -> None:
        """Checks ranges, and refuses experts without a layer."""
        super().__post_init__()
        require_layers(self, "expert_hidden")
        require_sizes(self, "experts")


class MMoE(TowerModel):
    """tower_t(sum over i of softmax(W_t x)_i E_i(x))."""

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """Maps [B, n * D] to [T, B, h]."""
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
      UserError: an unknown option, a value out of range, or an option that would have no effect.
    """
    return MMoE(build_options(MMoEOptions, options, shape), shape)
