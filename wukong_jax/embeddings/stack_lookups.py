"""Computes which slots of a batch row each rank looks up in a placed stack, and which rows and vectors they give.

SPMD programs are the same on every rank, so differences between ranks are constants indexed by the rank. On each rank,
the columns that read its pieces are grouped by length and pooling, and each group is padded to the size on the rank
with most columns. `R` is the number of batch rows whose ids reach a rank, `L` the slots of a rank per batch row, and
`Q` the vectors after pooling; `L` and `Q` include padding.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.data.blocks.batch import BagShare
from wukong_jax.embeddings.flat_bags import BagRows, FlatBags, flatten_bags
from wukong_jax.embeddings.layout import EmbeddingLayout, FieldPlacement
from wukong_jax.embeddings.placement import Piece, PlacedStack
from wukong_jax.embeddings.pooling import invert_counts, pool_bags

PADDING = -1


class RoutedIds(NamedTuple):
    """Ids of one placed stack, on the ranks that hold its rows."""

    row_ids: jax.Array  # [R, L] int32 in [0, V]; V: no row on this rank. Without the slots of bags that are laid flat
    inverse_counts: dict[str, jax.Array]  # [R, bags] float32 by position of the group, for groups with mean pooling
    flat: FlatBags | None = None


@dataclasses.dataclass(frozen=True)
class LookupGroup:
    """Columns with the same length and pooling, padded to the same number on every rank."""

    length: int  # slots per column
    pooling: str  # "sum", "mean", or "none" (each slot is a vector)
    columns: int  # columns per rank, including padding

    @property
    def is_pooled(self) -> bool:
        """Whether the group's columns are bags."""
        return self.pooling != "none"

    @property
    def slots(self) -> int:
        """Number of slots of the group on a rank."""
        return self.columns * self.length

    @property
    def vectors(self) -> int:
        """Number of vectors of the group on a rank."""
        return self.slots if self.pooling == "none" else self.columns


class StackLookups:
    """The lookups of one placed stack on every rank; holds only constants."""

    def __init__(self, layout: EmbeddingLayout, stack: PlacedStack, ranks: int) -> None:
        """Computes the lookups.

        Args:
          layout: layout of the columns.
          stack: placed stack that they read.
          ranks: number of ranks of the mesh.
        """
        self.stack = stack
        fields = layout.fields_of_stack(stack.source)
        first_vectors = _first_vectors(fields)
        by_rank = [_find_readers(fields, stack.pieces_of_rank(rank)) for rank in range(ranks)]
        self.groups = _build_groups(by_rank)
        self._bag_columns = [[field.column for field, _ in readers if field.pools] for readers in by_rank]
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
        """L, slots of a rank per batch row."""
        return self.slots.shape[1]

    @property
    def vectors_per_rank(self) -> int:
        """Q, vectors of a rank per batch row."""
        return self.vectors.shape[1]

    @property
    def bag_lengths(self) -> tuple[int, ...]:
        """Slots of each bag column on a rank, in the order of `slots`."""
        return tuple(group.length for group in self.groups if group.is_pooled for _ in range(group.columns))

    def find_rows(self, rank: jax.Array, ids: jax.Array, share: BagShare | None = None) -> RoutedIds:
        """Converts ids of columns to row ids in this rank's part of the stack; shard-local.

        Args:
          rank: int32 scalar, this rank.
          ids: [R, L] int32, -1 = no id, in the order of `slots`.
          share: share of the bags' slots in which they are laid flat; None: they stay padded.

        Returns:
          The row ids; ids whose row is on another rank or in no table get V.
        """
        starts, counts, firsts = (jnp.asarray(a)[rank] for a in (self._row_starts, self._row_counts, self._first_rows))
        local = ids - starts
        row_ids = jnp.where((local >= 0) & (local < counts), local + firsts, self.stack.rows)
        inverse_counts = {}
        for position, (group, piece) in enumerate(zip(self.groups, self._split(ids), strict=True)):
            if group.pooling == "mean":
                inverse_counts[str(position)] = invert_counts(piece, group.length)
        if share is None or not self.bag_lengths:
            return RoutedIds(row_ids, inverse_counts)
        bag_ids, bag_rows = (self._join(array, pooled=True) for array in (ids, row_ids))
        flat = flatten_bags(bag_ids, bag_rows, self.bag_lengths, share, self.stack.rows)
        return RoutedIds(self._join(row_ids, pooled=False), inverse_counts, flat)

    def pool(self, rows: jax.Array | BagRows, routed: RoutedIds) -> jax.Array:
        """Pools the rows of bags; shard-local.

        Args:
          rows: [R, L, w]; or sums of the bags, and the other slots.
          routed: result of `find_rows`.

        Returns:
          [R, Q, w] in the order of `vectors`.
        """
        if not isinstance(rows, BagRows) and not self.bag_lengths:
            return rows
        pooled = []
        for position, (group, piece) in enumerate(zip(self.groups, self._split_rows(rows), strict=True)):
            if group.is_pooled:
                length = 1 if isinstance(rows, BagRows) else group.length
                piece = pool_bags(piece, length, routed.inverse_counts.get(str(position)))
            pooled.append(piece)
        return jnp.concatenate(pooled, axis=1)

    def measure_fill(self, totals: Mapping[str, int], batch_rows: int) -> float:
        """Measures on the host how full the bags' slots are, on the rank where they are fullest.

        Args:
          totals: slots of each bag column up to the last ids of its bags, summed over the batch.
          batch_rows: B, whose ids reach every rank.

        Returns:
          The used share of the slots; 0 without bags.
        """
        slots = batch_rows * sum(self.bag_lengths)
        return max(sum(totals[name] for name in names) for names in self._bag_columns) / slots if slots else 0.0

    def _join(self, slots: jax.Array, *, pooled: bool) -> jax.Array:
        """Returns the slots of bags, or those of the other columns."""
        pieces = zip(self.groups, self._split(slots), strict=True)
        kept = [piece for group, piece in pieces if group.is_pooled == pooled]
        return jnp.concatenate(kept, axis=1) if kept else slots[:, :0]

    def _split_rows(self, rows: jax.Array | BagRows) -> list[jax.Array]:
        """Returns the rows of each group, or the sums of its bags."""
        if not isinstance(rows, BagRows):
            return list(self._split(rows))
        others = iter(_split_sizes(rows.slots, [group.slots for group in self.groups if not group.is_pooled]))
        sums = iter(_split_sizes(rows.sums, [group.columns for group in self.groups if group.is_pooled]))
        return [next(sums if group.is_pooled else others) for group in self.groups]

    def _split(self, slots: jax.Array) -> Sequence[jax.Array]:
        return jax.lax.split(slots, [group.slots for group in self.groups], axis=1)


def _split_sizes(values: jax.Array, sizes: Sequence[int]) -> Sequence[jax.Array]:
    return jax.lax.split(values, sizes, axis=1) if sizes else ()


_Reader = tuple[FieldPlacement, Piece]


def _first_vectors(fields: Sequence[FieldPlacement]) -> dict[str, int]:
    """Returns the position of each column's first vector in its layout stack."""
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
    """Returns one rank's slots, their pieces, and its vectors, with padding."""
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
