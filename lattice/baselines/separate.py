"""Separate networks: a deep network for each portfolio, over shared embeddings that all networks train.

This is as close to "a model per portfolio" as a single run can get. A fully separate model with separate tables is a
separate run on that portfolio's rows. Dense columns enter as one vector, which all networks share, too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn

from lattice.baselines.tasks import TowerOptions, tower_logits
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import build_options, input_vectors
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True)
class SeparateOptions(TowerOptions):
    """`config.model.options` of `lattice.baselines.separate:build`; the towers are the networks."""

    tower_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (256, 128, 64)  # hidden widths of each portfolio's network


class Separate(nn.Module):
    """Vectors flattened to [B, n * D]; a network for each domain and objective."""

    options: SeparateOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        flat = vectors.reshape(vectors.shape[0], -1)
        return tower_logits(flat, inputs.domain, options, shape, "portfolios", train=train)


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
