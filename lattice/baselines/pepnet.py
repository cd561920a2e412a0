"""PEPNet (arXiv 2302.01115): embeddings gated by the domain (EPNet), and tower layers gated by user priors (PPNet).

    EPNet: E' = gate([domain token, sg(E)]) * E
    PPNet: each hidden layer of every tower, times gate([priors, sg(E')])
    gate(x) = 2 sigmoid(MLP(x)) with one hidden layer, sg = stop gradient, * elementwise

The domain is not an input of the towers; it acts only through EPNet, which with one domain has no domain token. Choices
of ours: priors (user, item, author) are the tokens of columns that the user names, taken before EPNet, and have no
separate tables; the outputs of layers are gated; gates start at exactly 1, since the last layers of their MLPs start at
zero. As in FinalMLP here, the hidden layers of gates have no norm.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.multi_domain import domain_token
from lattice.baselines.tasks import (
    TaskOptions,
    Tasks,
    build_task_options,
    count_tasks,
    hidden_stack,
    own_logits,
    require_layers,
)
from wukong_jax.errors import UserError
from wukong_jax.layers.mlp import MLP, MLPStack
from wukong_jax.models.finalmlp import context_places
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import input_vectors
from wukong_jax.ranges import AtLeast

GAMMA = 2.0  # largest value of a gate, as in the paper


@dataclasses.dataclass(frozen=True)
class PEPNetOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.pepnet:build`.

    By default a task is an objective, as in the paper; "portfolios" gives each domain separate towers.
    """

    prior_columns: tuple[str, ...] = dataclasses.field(
        kw_only=True
    )  # columns that PPNet's gates read; [] = EPNet alone
    # hidden widths of each task's tower, which outputs a logit
    tower_hidden: Annotated[tuple[int, ...], AtLeast(1)] = (128, 64)
    gate_units: Annotated[int, AtLeast(1)] = 64  # width of every gate's hidden layer
    tasks: Tasks = "objectives"

    def __post_init__(self) -> None:
        """Refuses idle options, and priors of towers without a layer."""
        super().__post_init__()
        if len(set(self.prior_columns)) < len(self.prior_columns):
            raise UserError(f"prior_columns = {list(self.prior_columns)}: a column twice; name it once")
        if self.prior_columns:
            require_layers(self, "tower_hidden")


class PEPNet(nn.Module):
    """EPNet over the flattened vectors, then towers under PPNet."""

    options: PEPNetOptions
    shape: ModelShape

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        """Computes the logits; see `ModelInputs` and `Outputs`."""
        options, shape = self.options, self.shape
        vectors = input_vectors(inputs, options, shape, train=train)
        flat = vectors.reshape(vectors.shape[0], -1)
        seen = [jax.lax.stop_gradient(flat)]
        if shape.domains > 1:
            seen.insert(0, domain_token(self, inputs.domain, shape))
        gated = flat * self._gate("epnet", seen, flat.shape[1], train)
        logits = self._gated_towers(vectors, gated, train)
        return Outputs(own_logits(logits, inputs.domain, shape, options.tasks), {})

    def _gated_towers(self, vectors: jax.Array, gated: jax.Array, train: bool) -> jax.Array:
        """Computes the tasks' logits [T, B] float32 from vectors [B, n, D] and gated flat vectors [B, n * D]."""
        options, shape = self.options, self.shape
        tasks, dropout = count_tasks(options.tasks, shape), options.tower_dropout
        # Slice instead of indexing by a list, whose gradient would be a scatter.
        places = context_places(options.prior_columns, shape)
        priors = [jax.lax.index_in_dim(vectors, place, 1, keepdims=False) for place in places]
        seen, hidden = [*priors, jax.lax.stop_gradient(gated)], gated
        for index, width in enumerate(options.tower_hidden):
            layer = hidden_stack((tasks,), (width,), options, shape, name=f"tower_{index}", dropout=dropout)
            hidden = layer(hidden, train=train)
            if priors:
                gate = self._gate(f"ppnet_{index}", seen, tasks * width, train)
                hidden = hidden * gate.reshape(-1, tasks, width).transpose(1, 0, 2)
        output = MLPStack(
            (),
            1,
            shape.dtype,
            options.mlp_biases,
            output_scale=options.head_output_scale,
            output_dtype=jnp.float32,
            counts=(tasks,),
            name="tower_output",
        )
        return output(hidden, train=train)[:, :, 0]

    def _gate(self, name: str, seen: list[jax.Array], features: int, train: bool) -> jax.Array:
        """Computes a gate from concatenated vectors, [B, features] in (0, 2)."""
        options, dtype = self.options, self.shape.dtype
        gate = MLP((options.gate_units,), features, dtype, options.mlp_biases, output_scale=0.0, name=name)
        return GAMMA * nn.sigmoid(gate(jnp.concatenate(seen, axis=1), train=train))


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `PEPNetOptions`; `prior_columns` is required.
      shape: sizes of inputs and outputs; priors are found by name in `token_columns`.

    Returns:
      A `PEPNet`.

    Raises:
      UserError: an unknown option or column, a value out of range, or an option that would have no effect.
    """
    built = build_task_options(PEPNetOptions, options, shape)
    known = list(dict.fromkeys(column for column in shape.token_columns if column))
    for column in built.prior_columns:
        if column not in known:
            raise UserError(
                f"config.model.options.prior_columns = {column!r}: no column with separate embeddings; "
                f"known: {', '.join(known) or 'none'} (dense columns cannot be priors)"
            )
    return PEPNet(built, shape)
