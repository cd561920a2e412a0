"""Shared bottom (Caruana, Machine Learning 28, 1997): one MLP shared by all tasks, and a tower for each task."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lattice.baselines.tasks import TaskOptions, TowerModel, require_layers
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import build_options


@dataclasses.dataclass(frozen=True)
class SharedBottomOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.shared_bottom:build`.

    As in all models here, `bottom_*` options are about the dense columns; the shared MLP has the `shared_*` options.
    """

    shared_hidden: tuple[int, ...] = (256, 128)  # widths of the shared layers
    shared_dropout: float = 0.0  # after each shared layer

    def __post_init__(self) -> None:
        """Checks ranges, and refuses a shared MLP without a layer, which would be `separate`."""
        super().__post_init__()
        require_layers(self, "shared_hidden")


class SharedBottom(TowerModel):
    """tower_t(MLP(x))."""

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """Applies the shared layers: [B, n * D] to [B, h]."""
        options = self.options
        return self.hidden(options.shared_hidden, name="shared", dropout=options.shared_dropout)(inputs, train=train)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `SharedBottomOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `SharedBottom`.

    Raises:
      UserError: an unknown option, a value out of range, or an option that would have no effect.
    """
    return SharedBottom(build_options(SharedBottomOptions, options, shape), shape)
