"""Plain deep network: an MLP over the flattened vectors, the baseline for models with explicit interactions.

It is the "DNN" of the comparisons in DeepFM (arXiv 1703.04247) and of the BARS benchmark: only the hidden layers model
interactions. The dense columns enter as one more vector, as in the other models here, not as separate columns.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn

from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import VectorModelOptions, build_options, input_vectors, output_layers
from wukong_jax.ranges import AtLeast, Fraction


@dataclasses.dataclass(frozen=True)
class DNNOptions(VectorModelOptions):
    """`config.model.options` of `wukong_jax.models.dnn:build`; the default widths are DeepFM's for Criteo."""

    # hidden widths; if empty, the logits are linear in the vectors
    deep_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (400, 400, 400)
    deep_dropout: Annotated[float, Fraction()] = 0.0  # after each hidden layer


class DNN(nn.Module):
    """Vectors flattened to [B, n * D]; hidden layers; logits."""

    options: DNNOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        deep = output_layers(options.deep_hidden, options, shape, name="deep", dropout=options.deep_dropout)
        return Outputs(deep(vectors.reshape(vectors.shape[0], -1), train=train), {})


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `DNNOptions`.
      shape: sizes of inputs and outputs.

    Returns:
      A `DNN`.

    Raises:
      UserError: an unknown option, a value out of range, or an option without effect.
    """
    return DNN(build_options(DNNOptions, options, shape), shape)
