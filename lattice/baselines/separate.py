"""Separate networks: a deep network for each portfolio, over embeddings that all of them share and train.

It is as near to "a model per portfolio" as one run comes. A fully separate model, with tables of its own, is a run of
its own on that portfolio's rows. Dense columns enter as one vector, which all networks share too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax

from lattice.baselines.tasks import Tasks, TowerModel, TowerOptions
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import build_options
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True)
class SeparateOptions(TowerOptions):
    """`config.model.options` of `lattice.baselines.separate:build`; the towers are the networks."""

    tower_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256, 128, 64)  # hidden widths of each portfolio's network


class Separate(TowerModel):
    """Vectors flattened to [B, n * D]; a network for each domain and objective."""

    @property
    def tasks(self) -> Tasks:
        """Always the portfolios."""
        return "portfolios"

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """The flattened vectors themselves, [B, n * D]."""
        return inputs


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `SeparateOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `Separate`.

    Raises:
      UserError: an unknown option, a value out of range, or one that others leave without an effect.
    """
    return Separate(build_options(SeparateOptions, options, shape), shape)
