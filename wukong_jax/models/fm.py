"""Factorization machine (Rendle, ICDM 2010, section III): weights of features and dot products of all their pairs."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import Above
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class FMOptions:
    """`config.model.options` of `wukong_jax.models.fm:build`."""

    # Initial standard deviation of the dense columns' factors, by default that of the tables' rows. It cannot be 0:
    # without tokens, factors that start at 0 stay at 0.
    dense_factor_scale: Annotated[float, Above(0)] = 0.02


class FactorizationMachine(nn.Module):
    """For each objective, logit = bias + sum of w_i x_i + sum over pairs i < j of <v_i, v_j> x_i x_j.

    A feature is a token (x = 1 if it is present) or a dense column (x = its value). A token has width D = O * (1 + K):
    for each objective, the weight w of the id, then its K factors v. The tables therefore hold all parameters except
    the bias and those of the dense columns, and weights start at the same scale as factors. A bag of ids is one token,
    the sum or mean of its rows: it pairs with other features, but its ids do not pair with each other.

    The sum over pairs takes linear time: it is half of (the square of the sum of v_i x_i minus the sum of squares),
    summed over K (lemma 3.1 of the paper). Both terms are nearly equal if one feature dominates. Therefore everything
    is float32 for any compute dtype, and products over dense columns keep full precision on accelerators.

    Attributes:
      options: `FMOptions`.
      shape: sizes of inputs and outputs.
    """

    options: FMOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        objectives = self.shape.objectives
        tokens = inputs.present_embeddings.astype(jnp.float32)
        parts = tokens.shape[0], objectives, self.shape.width // objectives
        sums = tokens.sum(axis=1).reshape(parts)
        squares = jnp.square(tokens).sum(axis=1).reshape(parts)[:, :, 1:].sum(axis=2)
        if self.shape.dense_features:
            dense_sums, dense_squares = self._dense_sums(inputs.dense.astype(jnp.float32))
            sums, squares = sums + dense_sums.reshape(parts), squares + dense_squares
        pairs = 0.5 * (jnp.square(sums[:, :, 1:]).sum(axis=2) - squares)
        bias = self.param("bias", nn.initializers.zeros_init(), (objectives,))
        return Outputs(sums[:, :, 0] + pairs + bias, {})

    def _dense_sums(self, dense: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the dense columns' part of the sums.

        Args:
          dense: [B, F_dense] float32.

        Returns:
          Sum of x_j (w_j, v_j), [B, D] in the layout of a token, and the sum of squares of x_j v_j, [B, O].
        """
        columns, width, objectives = dense.shape[1], self.shape.width, self.shape.objectives
        weights = self.param("dense_weights", nn.initializers.zeros_init(), (columns, objectives))
        start = nn.initializers.normal(self.options.dense_factor_scale)
        factors = self.param("dense_factors", start, (columns, objectives, width // objectives - 1))
        kernel = jnp.concatenate([weights[:, :, None], factors], axis=2).reshape(columns, width)
        sums = jnp.dot(dense, kernel, precision="highest")
        return sums, jnp.dot(jnp.square(dense), jnp.square(factors).sum(axis=2), precision="highest")


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `FMOptions`.
      shape: sizes of inputs and outputs; the width must be O * (1 + K) with K at least 1.

    Returns:
      A `FactorizationMachine`.

    Raises:
      UserError: an unknown option, a value out of range, an option without effect, a width that is not O * (1 + K), or
        a single feature, which has no pair.
    """
    built = build_dataclass(FMOptions, options, "config.model.options")
    width, objectives = shape.width, shape.objectives
    if shape.tokens + shape.dense_features < 2:
        raise UserError(
            f"tokens = {shape.tokens}: a factorization machine pairs features; give it two embeddings or dense columns"
        )
    if width % objectives:
        raise UserError(
            f"config.embeddings.width = {width}: a factorization machine splits it evenly among objectives; "
            f"set a multiple of {objectives}, at least {2 * objectives}"
        )
    if width == objectives:
        raise UserError(
            f"config.embeddings.width = {width}: one number per objective leaves a factorization machine no factors "
            f"(K = 0, logistic regression); set a multiple of {objectives}, at least {2 * objectives}"
        )
    no_dense = not shape.dense_features
    refuse_idle(built, "dense_factor_scale", no_dense, "without dense columns", "config.model.options.")
    return FactorizationMachine(built, shape)
