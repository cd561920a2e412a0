"""PEPNet (arXiv 2302.01115): gates made of the domain over the embeddings, and of the user over the towers' layers.

    EPNet: E' = gate([domain token, sg(E)]) * E
    PPNet: each hidden layer of every tower, times gate([priors, sg(E')])
    gate(x) = 2 sigmoid(MLP(x)) with one hidden layer, sg = stop gradient, * elementwise

The domain is no input of the towers; it acts through EPNet alone, which with one domain has no token to read. Our
choices: priors (user, item, author) are tokens of columns that the user names, as they are before EPNet, and not tables
of their own; the layers' outputs are what is gated; gates start at exactly 1, as the last layers of their MLPs start at
zero. As in FinalMLP here, gates' hidden layers have no norm.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lattice.baselines.tasks import TaskOptions, Tasks, TowerModel, build_task_options, require_layers
from wukong_jax.errors import UserError
from wukong_jax.layers.mlp import MLP, MLPStack
from wukong_jax.models.finalmlp import context_places
from wukong_jax.models.shape import ModelShape
from wukong_jax.ranges import AtLeast

GAMMA = 2.0  # the largest value of a gate, the paper's


@dataclasses.dataclass(frozen=True)
class PEPNetOptions(TaskOptions):
    """`config.model.options` of `lattice.baselines.pepnet:build`.

    A task is by default an objective, as in the paper; "portfolios" gives each domain towers of its own.
    """

    prior_columns: tuple[str, ...] = dataclasses.field(
        kw_only=True
    )  # columns that PPNet's gates read; [] = EPNet alone
    # hidden widths of each task's tower, which ends in a logit
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


class PEPNet(TowerModel):
    """EPNet over the flattened vectors, then towers under PPNet."""

    def portfolio_logits(self, inputs: jax.Array, domain: jax.Array, filled: jax.Array, train: bool) -> jax.Array:
        """[B, n, D] to [B, O] float32."""
        flat = inputs.reshape(len(inputs), -1)
        seen = [jax.lax.stop_gradient(flat)]
        if self.shape.domains > 1:
            seen.insert(0, self.domain_token(domain))
        gated = flat * self._gate("epnet", seen, flat.shape[1], train)
        return self.own_logits(self._gated_towers(inputs, gated, train), domain)

    def _gated_towers(self, inputs: jax.Array, gated: jax.Array, train: bool) -> jax.Array:
        """[B, n, D] and, gated and flat, [B, n * D] to the tasks' logits [T, B] float32."""
        options, shape, tasks = self.options, self.shape, self.task_count
        # slices: an index by a list would have a scatter for its gradient
        places = context_places(options.prior_columns, shape)
        priors = [jax.lax.index_in_dim(inputs, place, 1, keepdims=False) for place in places]
        seen, hidden = [*priors, jax.lax.stop_gradient(gated)], gated
        for index, width in enumerate(options.tower_hidden):
            hidden = self.stack((tasks,), (width,), options.tower_dropout, f"tower_{index}")(hidden, train=train)
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
        """A gate neural unit over concatenated vectors, [B, features] in (0, 2)."""
        options, dtype = self.options, self.shape.dtype
        gate = MLP((options.gate_units,), features, dtype, options.mlp_biases, output_scale=0.0, name=name)
        return GAMMA * nn.sigmoid(gate(jnp.concatenate(seen, axis=1), train=train))


def build(options: Mapping[str, Any], shape: ModelShape) -> nn.Module:
    """Builds the model from a config.

    Args:
      options: keys of `PEPNetOptions`; `prior_columns` has to be given.
      shape: sizes of inputs and outputs; `token_columns` gives the names for priors.

    Returns:
      A `PEPNet`.

    Raises:
      UserError: an unknown option or column, a value out of range, or one that others leave without an effect.
    """
    built = build_task_options(PEPNetOptions, options, shape)
    known = list(dict.fromkeys(column for column in shape.token_columns if column))
    for column in built.prior_columns:
        if column not in known:
            raise UserError(
                f"config.model.options.prior_columns = {column!r}: no column with embeddings of its own; "
                f"known: {', '.join(known) or 'none'} (dense columns cannot be priors)"
            )
    return PEPNet(built, shape)
