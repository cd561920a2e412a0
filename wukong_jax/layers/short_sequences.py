"""What a model may know of the sequences of the rows it computes: that none is longer than a share of the longest.

A sequence of up to 200 events has 200 tokens a row, most of them absent where lengths have a long tail. The train step
computes rows of similar lengths together (`training.length_parts`), and tells the model here how many of the first
tokens of each sequence may be present. A model that leaves the others out must compute what it computes with them, and
says so by an attribute `short_sequences`, the names of the columns.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import jax
import jax.numpy as jnp

_share: ContextVar[float] = ContextVar("share of the longest sequence", default=1.0)


@contextlib.contextmanager
def shorten_sequences(share: float) -> Iterator[None]:
    """Tells the model that is traced in the body that tokens beyond a share of each sequence are absent in every row.

    Args:
      share: above 0, at most 1.
    """
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


def kept_length(longest: int) -> int:
    """Returns how many tokens of a sequence of up to `longest` tokens may be present."""
    return shortened(longest, _share.get())


def shortened(longest: int, share: float) -> int:
    """Returns the share of a length, rounded up."""
    return math.ceil(longest * share)


@dataclasses.dataclass(frozen=True)
class KeptTokens:
    """Ranges of a layer's tokens that it is given; the others are zero in every row."""

    total: int  # all tokens; weights are those of all
    ranges: tuple[tuple[int, int], ...]  # (first, one past the last), ascending

    @property
    def count(self) -> int:
        """Number of tokens that are given."""
        return sum(end - first for first, end in self.ranges)

    @property
    def are_all(self) -> bool:
        """Whether no token is left out."""
        return self.count == self.total

    def take(self, weights: jax.Array, axis: int = 0) -> jax.Array:
        """Returns the weights of the tokens that are given.

        Args:
          weights: array with `total` entries on an axis, or a multiple, for several values of each token in groups of
            `total`.
          axis: the axis, not negative.
        """
        if self.are_all:
            return weights
        shape = weights.shape
        grouped = weights.reshape(*shape[:axis], shape[axis] // self.total, self.total, *shape[axis + 1 :])
        pieces = [jax.lax.slice_in_dim(grouped, *own, axis=axis + 1) for own in self.ranges]
        return jnp.concatenate(pieces, axis=axis + 1).reshape(*shape[:axis], -1, *shape[axis + 1 :])

    def fill_up(self, tokens: jax.Array) -> jax.Array:
        """Returns all tokens, [..., total], with zeros for those that are not given, from [..., count]."""
        if self.are_all:
            return tokens
        pieces, place = [], 0
        sizes = [end - first for first, end in self.ranges]
        for (first, end), piece in zip(self.ranges, jax.lax.split(tokens, sizes, axis=tokens.ndim - 1), strict=True):
            pieces += [jnp.zeros((*tokens.shape[:-1], first - place), tokens.dtype), piece]
            place = end
        pieces.append(jnp.zeros((*tokens.shape[:-1], self.total - place), tokens.dtype))
        return jnp.concatenate(pieces, axis=-1)


def join_kept(parts: Sequence[KeptTokens]) -> KeptTokens:
    """Returns what is given of the tokens of several parts, side by side."""
    total, ranges = 0, []
    for part in parts:
        ranges += [(total + first, total + end) for first, end in part.ranges]
        total += part.total
    return KeptTokens(total, tuple(ranges))
