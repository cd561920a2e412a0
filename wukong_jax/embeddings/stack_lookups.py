"""What each rank looks up in a placed stack: which slots of a batch row, which rows they are, which vectors they make.

SPMD programs are the same on every rank, so what differs between ranks is constants, indexed by the rank. On each rank
the columns that read its pieces are grouped by how they pool; each group is padded to the largest rank's. `R` counts
the batch rows whose ids reach a rank, `L` a rank's slots per batch row, `Q` the vectors that pooling leaves of them,
all padded.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.embeddings.layout import EmbeddingLayout, FieldPlacement
from wukong_jax.embeddings.placement import Piece, PlacedStack
from wukong_jax.embeddings.pooling import invert_counts, pool_bags

PADDING = -1


class RoutedIds(NamedTuple):
    """Ids of one placed stack, on the ranks that hold its rows."""

    row_ids: jax.Array  # [R, L] int32 in [0, V]; V: no row here
    inverse_counts: dict[str, jax.Array]  # of groups that average: group position -> [R, bags] float32


@dataclasses.dataclass(frozen=True)
class LookupGroup:
    """Columns of one length and pooling; the same number of places on every rank."""

    length: int  # slots of a column
    pooling: str  # "sum", "mean", or "none": each slot is a vector
    columns: int  # places per rank

    @property
    def slots(self) -> int:
        """Slots of the group on a rank."""
        return self.columns * self.length

    @property
    def vectors(self) -> int:
        """Vectors of the group on a rank."""
        return self.slots if self.pooling == "none" else self.columns


class StackLookups:
    """The lookups of one placed stack on every rank; constants only."""

    def __init__(self, layout: EmbeddingLayout, stack: PlacedStack, ranks: int) -> None:
        """Lists the lookups.

        Args:
          layout: the columns.
          stack: whose pieces they read.
          ranks: devices of the mesh.
        """
        self.stack = stack
        fields = layout.fields_of_stack(stack.source)
        first_vectors = _first_vectors(fields)
        by_rank = [_find_readers(fields, stack.pieces_of_rank(rank)) for rank in range(ranks)]
        self.groups = _build_groups(by_rank)
        slots, pieces, vectors = zip(
            *(_list_lookups(readers, self.groups, first_vectors) for readers in by_rank), strict=True
        )
        self.slots = np.array(slots, np.int32)  # [ranks, L] slot of the batch's ids, or PADDING
        self.vectors = np.array(vectors, np.int32)  # [ranks, Q] position among the layout stack's vectors, or PADDING
        numbers = [[(0, 0, 0) if p is None else (p.row_start, p.row_count, p.first_row) for p in row] for row in pieces]
        self._row_starts, self._row_counts, self._first_rows = np.moveaxis(
            np.array(numbers, np.int32).reshape(ranks, -1, 3), -1, 0
        )

    @property
    def slots_per_rank(self) -> int:
        """L."""
        return self.slots.shape[1]

    @property
    def vectors_per_rank(self) -> int:
        """Q."""
        return self.vectors.shape[1]

    def find_rows(self, rank: jax.Array, ids: jax.Array) -> RoutedIds:
        """Turns ids of columns into rows of this rank's part of the stack; shard-local.

        Args:
          rank: int32 scalar.
          ids: [R, L] int32, -1 = no id, as `slots` orders them.

        Returns:
          The rows; ids whose row lies elsewhere, or in no table, have none here.
        """
        starts, counts, firsts = (jnp.asarray(a)[rank] for a in (self._row_starts, self._row_counts, self._first_rows))
        local = ids - starts
        row_ids = jnp.where((local >= 0) & (local < counts), local + firsts, self.stack.rows)
        inverse_counts = {}
        for position, (group, piece) in enumerate(zip(self.groups, self._split(ids), strict=True)):
            if group.pooling == "mean":
                inverse_counts[str(position)] = invert_counts(piece, group.length)
        return RoutedIds(row_ids, inverse_counts)

    def pool(self, rows: jax.Array, routed: RoutedIds) -> jax.Array:
        """Pools the rows of bags; shard-local.

        Args:
          rows: [R, L, w].
          routed: from `find_rows`.

        Returns:
          [R, Q, w], as `vectors` orders them.
        """
        if all(group.pooling == "none" for group in self.groups):
            return rows
        pooled = []
        for position, (group, piece) in enumerate(zip(self.groups, self._split(rows), strict=True)):
            if group.pooling != "none":
                piece = pool_bags(piece, group.length, routed.inverse_counts.get(str(position)))
            pooled.append(piece)
        return jnp.concatenate(pooled, axis=1)

    def _split(self, slots: jax.Array) -> Sequence[jax.Array]:
        return jax.lax.split(slots, [group.slots for group in self.groups], axis=1)


_Reader = tuple[FieldPlacement, Piece]


def _first_vectors(fields: Sequence[FieldPlacement]) -> dict[str, int]:
    """The first vector of each column among those of its layout stack."""
    first, total = {}, 0
    for field in fields:
        first[field.column] = total
        total += field.vectors
    return first


def _find_readers(fields: Sequence[FieldPlacement], pieces: Sequence[Piece]) -> list[_Reader]:
    return [(field, piece) for field in fields for piece in pieces if piece.table == field.table]


def _group_key(field: FieldPlacement) -> tuple[int, str]:
    return field.length, field.pooling if field.pools else "none"


def _build_groups(by_rank: Sequence[Sequence[_Reader]]) -> tuple[LookupGroup, ...]:
    keys = dict.fromkeys(_group_key(field) for readers in by_rank for field, _ in readers)
    return tuple(
        LookupGroup(*key, columns=max(sum(_group_key(field) == key for field, _ in readers) for readers in by_rank))
        for key in keys
    )


def _list_lookups(
    readers: Sequence[_Reader], groups: Sequence[LookupGroup], first_vectors: dict[str, int]
) -> tuple[list[int], list[Piece | None], list[int]]:
    """One rank's slots, their pieces, and its vectors, padded."""
    slots: list[int] = []
    pieces: list[Piece | None] = []
    vectors: list[int] = []
    for group in groups:
        own = [reader for reader in readers if _group_key(reader[0]) == (group.length, group.pooling)]
        missing = group.columns - len(own)
        for field, piece in own:
            slots += range(*field.slots)
            pieces += [piece] * field.length
            first = first_vectors[field.column]
            vectors += range(first, first + field.vectors)
        slots += [PADDING] * (missing * group.length)
        pieces += [None] * (missing * group.length)
        vectors += [PADDING] * (group.vectors - sum(field.vectors for field, _ in own))
    return slots, pieces, vectors
