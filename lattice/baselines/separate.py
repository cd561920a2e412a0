"""Separate networks: a deep network for each portfolio, over shared embeddings that all networks train.

This is as close to "a model per portfolio" as a single run can get. A fully separate model with separate tables is a
separate run on that portfolio's rows. Dense columns enter as one vector, which all networks share, too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lattice.baselines.tasks import Tasks, TowerModel, TowerOptions
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import build_options


@dataclasses.dataclass(frozen=True)
class SeparateOptions(TowerOptions):
    """`config.model.options` of `lattice.baselines.separate:build`; the towers are the networks."""

    tower_hidden: tuple[int, ...] = (256, 128, 64)  # hidden widths of each portfolio's network


class Separate(TowerModel):
    """A network for each domain and objective over the flattened vectors, [B, n * D]."""

    @property
    def tasks(self) -> Tasks:
        """Always the portfolios."""
        return "portfolios"

    def task_features(self, inputs: jax.Array, train: bool) -> jax.Array:
        """Returns the flattened vectors, [B, n * D], unchanged."""
        return inputs


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `SeparateOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `Separate`.

    Raises:
      UserError: an unknown option, a value out of range, or an option that would have no effect.
    """
    return Separate(build_options(SeparateOptions, options, shape), shape)
