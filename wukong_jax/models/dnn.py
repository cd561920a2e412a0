"""Plain deep network: an MLP over the flattened vectors, which every mixed model here is held against.

It is the "DNN" of the comparisons in DeepFM (arXiv 1703.04247) and of the BARS benchmark: interactions are left to the
hidden layers. Dense columns enter as one more vector, as in the other models here, not column by column.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax

from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import VectorModel, VectorModelOptions, build_options
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class DNNOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.dnn:build`; widths by default are DeepFM's for Criteo."""

    # hidden widths; none makes the logits linear in the vectors
    deep_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400, 400, 400)
    deep_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer


class DNN(VectorModel):
    """Vectors flattened to [B, n * D]; hidden layers; logits."""

    def logits(self, inputs: jax.Array, train: bool) -> jax.Array:
        """[B, n, D] to [B, O]."""
        options = self.options
        flat = inputs.reshape(inputs.shape[0], -1)
        return self.head(options.deep_hidden, name="deep", dropout=options.deep_dropout)(flat, train=train)


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `DNNOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `DNN`.

    Raises:
      UserError: an unknown option, a value out of range, or one that others leave without an effect.
    """
    return DNN(build_options(DNNOptions, options, shape), shape)
