"""Shared bottom (Caruana, Machine Learning 28, 1997): one MLP shared by all tasks, and a tower for each task."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn

from lattice.baselines.tasks import TaskOptions, build_task_options, require_layers, task_inputs, tower_logits
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import hidden_layers
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class SharedBottomOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.shared_bottom:build`.

    As in all models here, `bottom_*` options are about the dense columns; the shared MLP has the `shared_*` options.
    """

    shared_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256, 128)  # widths of the shared layers
    shared_dropout: Annotated[float, Fraction()] = 0.0  # after each shared layer

    def __post_init__(self) -> None:
        """Refuses idle options, and a bottom without a layer, which is `separate`'s."""
        super().__post_init__()
        require_layers(self, "shared_hidden")


class SharedBottom(nn.Module):
    """tower_t(MLP(x))."""

    options: SharedBottomOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        flat = task_inputs(self, inputs, train=train)
        shared = hidden_layers(options.shared_hidden, options, shape, name="shared", dropout=options.shared_dropout)
        features = shared(flat, train=train)
        return tower_logits(features, inputs.domain, options, shape, options.tasks, train=train)


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
    return SharedBottom(build_task_options(SharedBottomOptions, options, shape), shape)
