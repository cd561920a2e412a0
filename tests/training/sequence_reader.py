"""A small model that can leave out absent events, for tests of steps by length."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from wukong_jax.layers.dropout import Dropout
from wukong_jax.layers.short_sequences import kept_length
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape


class Reader(nn.Module):
    """A small model that reads events in their order; compiling a Lattice network takes ten times as long."""

    shape: ModelShape
    short_sequences: tuple[str, ...]
    dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        columns = self.shape.token_columns
        read = []
        for name in self.short_sequences:
            places = [place for place, column in enumerate(columns) if column == name]
            first, kept = places[0], kept_length(len(places))
            order = self.param(f"order_{name}", nn.initializers.normal(0.5), (len(places), self.shape.width))
            events = jnp.tanh(inputs.embeddings[:, first : first + kept] * 20 + order[:kept])
            read.append((events * inputs.token_mask[:, first : first + kept, None]).sum(axis=1))
        features = jnp.concatenate([*read, inputs.embeddings[:, 0], inputs.dense], axis=1)
        hidden = Dropout(self.dropout, deterministic=not train)(nn.tanh(nn.Dense(6)(features)))
        return Outputs(nn.Dense(self.shape.objectives)(hidden), {})


def build(options: Mapping[str, Any], shape: ModelShape) -> Reader:
    return Reader(shape, options["sequences"], options.get("dropout", 0.0))
