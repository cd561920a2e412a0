"""Logistic regression, the baseline that every other model should beat."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class LogisticRegressionOptions:
    """Logistic regression has no options; any key is refused."""


class LogisticRegression(nn.Module):
    """Logits = sum of the embeddings + a linear map of the dense features + a bias.

    An embedding of width D = O holds one weight per objective, so the tables are the weights of the one-hot ids.
    Everything is float32 for any compute dtype.
    """

    options: LogisticRegressionOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        objectives = self.shape.objectives
        bias = self.param("bias", nn.initializers.zeros_init(), (objectives,))
        logits = inputs.present_embeddings.astype(jnp.float32).sum(axis=1) + bias
        if self.shape.dense_features:
            linear = nn.Dense(objectives, use_bias=False, kernel_init=nn.initializers.zeros_init(), name="dense")
            logits = logits + linear(inputs.dense.astype(jnp.float32))
        return Outputs(logits, {})


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: must be empty.
      shape: sizes of inputs and outputs; the width must equal the number of objectives.

    Returns:
      A `LogisticRegression`.

    Raises:
      UserError: an option is given, or the embeddings' width is not the number of objectives.
    """
    built = build_dataclass(LogisticRegressionOptions, options, "config.model.options")
    if shape.tokens and shape.width != shape.objectives:
        raise UserError(
            f"config.embeddings.width = {shape.width}: logistic regression needs one weight per objective; "
            f"set the width to {shape.objectives}"
        )
    return LogisticRegression(built, shape)
