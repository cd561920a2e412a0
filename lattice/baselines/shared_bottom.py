"""Shared bottom (Caruana, Machine Learning 28, 1997): one MLP that all tasks share, and a tower for each."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax

from lattice.baselines.tasks import TaskOptions, TowerModel, build_task_options, require_layers
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class SharedBottomOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.shared_bottom:build`.

    `bottom_*` is about the dense columns, as in all models here; the bottom that gives this one its name is `shared_*`.
    """

    shared_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256, 128)  # widths of the layers that all tasks share
    shared_dropout: Annotated[float, Fraction()] = 0.0  # after each of them

    def __post_init__(self) -> None:
        """Refuses idle options, and a bottom without a layer, which is `separate`'s."""
        super().__post_init__()
        require_layers(self, "shared_hidden")


class SharedBottom(TowerModel):
    """tower_t(MLP(x))."""

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """The shared layers: [B, n * D] to [B, h]."""
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
      UserError: an unknown option, a value out of range, or one that others leave without an effect.
    """
    return SharedBottom(build_task_options(SharedBottomOptions, options, shape), shape)
