"""Assembles the input tokens and token mask of models from pooled vectors, and projects narrow columns."""

import dataclasses
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from wukong_jax.embeddings.layout import EmbeddingLayout, FieldPlacement


@dataclasses.dataclass(frozen=True)
class _Run:
    """Neighbouring columns that read the same stack in the same way, handled as one array."""

    fields: tuple[FieldPlacement, ...]

    @property
    def first(self) -> FieldPlacement:
        return self.fields[0]

    @property
    def slots(self) -> tuple[int, int]:
        return self.fields[0].slots[0], self.fields[-1].slots[1]

    @property
    def vectors(self) -> int:
        return sum(field.vectors for field in self.fields)

    @property
    def tokens(self) -> int:
        return sum(field.vectors * field.count for field in self.fields)


class TokenAssembly(nn.Module):
    """Splits rows with several embeddings per value into tokens, and projects narrow columns.

    Attributes:
      layout: layout of the slots and tokens.
    """

    layout: EmbeddingLayout

    @nn.compact
    def __call__(self, values: dict[str, jax.Array], ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Assembles the tokens of a batch.

        Args:
          values: [B, vectors of the stack, w] float32 by stack name, the result of `Exchange.collect`.
          ids: [B, S] int32, -1 = no id.

        Returns:
          Embeddings [B, N, D] float32, and token_mask [B, N] float32. The mask is 0 for tokens without an id, whose
          embedding is zero, and 1 for all tokens of the projection if any narrow column has an id.
        """
        batch = ids.shape[0]
        runs = _find_runs(self.layout)
        pieces = self._split_values(values, runs)
        present = (ids >= 0).astype(jnp.float32)
        wide, wide_masks, narrow, narrow_masks = [], [], [], []
        for run, vectors in zip(runs, pieces, strict=True):
            mask = _find_present(run, present[:, slice(*run.slots)])
            if run.first.narrow:
                narrow.append(vectors.reshape(batch, -1))
                narrow_masks.append(mask)
            else:
                wide.append(vectors.reshape(batch, run.tokens, self.layout.width))
                wide_masks.append(jnp.repeat(mask, run.first.count, axis=1))
        if narrow:
            wide.append(self._project_narrow(jnp.concatenate(narrow, axis=1)))
            any_present = jnp.max(jnp.concatenate(narrow_masks, axis=1), axis=1, keepdims=True)
            wide_masks.append(jnp.repeat(any_present, self.layout.narrow_tokens, axis=1))
        if not wide:
            return jnp.zeros((batch, 0, self.layout.width), jnp.float32), jnp.zeros((batch, 0), jnp.float32)
        return jnp.concatenate(wide, axis=1), jnp.concatenate(wide_masks, axis=1)

    def _split_values(self, values: dict[str, jax.Array], runs: Sequence[_Run]) -> list[jax.Array]:
        """Splits the values by run. The gradient of a split is one concatenation, unlike that of slicing."""
        pieces: dict[int, list[jax.Array]] = {}
        for index, stack in enumerate(self.layout.stacks):
            sizes = [run.vectors for run in runs if run.first.stack == index]
            pieces[index] = list(jax.lax.split(values[stack.name], sizes, axis=1))
        return [pieces[run.first.stack].pop(0) for run in runs]

    def _project_narrow(self, features: jax.Array) -> jax.Array:
        """Projects [B, narrow_width] to [B, narrow_tokens, D]."""
        hidden = features
        for index, width in enumerate(self.layout.narrow_hidden):
            hidden = nn.relu(nn.Dense(width, name=f"narrow_hidden_{index}")(hidden))
        tokens = nn.Dense(self.layout.narrow_tokens * self.layout.width, name="narrow_projection")(hidden)
        return tokens.reshape(features.shape[0], self.layout.narrow_tokens, self.layout.width)


def _find_runs(layout: EmbeddingLayout) -> list[_Run]:
    """Groups neighbouring columns that are handled in the same way."""

    def treatment(field: FieldPlacement) -> tuple[object, ...]:
        pooling = field.pooling if field.length > 1 else None
        return field.stack, field.narrow, field.count, field.length, pooling

    return [_Run(tuple(fields)) for _, fields in itertools.groupby(layout.fields, treatment)]


def _find_present(run: _Run, present: jax.Array) -> jax.Array:
    """Reduces the presence (0 or 1) of ids [B, slots of the run] to that of vectors [B, vectors of the run]."""
    if not run.first.pools:
        return present
    return present.reshape(present.shape[0], len(run.fields), run.first.length).max(axis=2)
