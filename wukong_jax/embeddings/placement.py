"""Places the rows and columns of tables on the ranks of a mesh.

A *placement* assigns every table a strategy and the ranks that hold it:

* replicated: every rank holds the whole table;
* table-wise: one rank holds the whole table;
* column-wise: each of `p` ranks holds `w / p` columns of all rows;
* row-wise: each of `p` ranks holds a block of `ceil(V / p)` consecutive rows, with all columns.

Ranks are numbered `host * C + chip`. The ranks of a column- or row-wise table form an aligned block `[k p, (k + 1) p)`,
so that blocks of the same size are equal or disjoint. All ranks of a block then hold the same tables in the same order,
which the exchanges and the row-wise AdaGrad of column-wise tables rely on.

Pieces with the same layout stack, strategy and `p` form a *placed stack*. Each rank stores its pieces one after
another, and its arrays are padded to `V` rows, those of the fullest rank. The global arrays `[ranks * V, ...]` are
sharded over both mesh axes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from wukong_jax.embeddings.layout import MAX_STACK_ROWS, EmbeddingLayout, TableStack
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.errors import UserError

_ROWS_TO_ROUND = 65_536

Strategy = Literal["replicated", "table_wise", "column_wise", "row_wise"]
STRATEGIES: tuple[Strategy, ...] = ("replicated", "table_wise", "column_wise", "row_wise")


@dataclasses.dataclass(frozen=True)
class TablePlacement:
    """The strategy of one table, and the aligned block of ranks that holds it (all ranks if replicated)."""

    strategy: Strategy
    first_rank: int = 0
    ranks: int = 1  # p


@dataclasses.dataclass(frozen=True)
class Piece:
    """A rectangle of a table, and its place."""

    table: str
    rank: int
    row_start: int  # first row in the table
    row_count: int
    column_start: int
    first_row: int  # first row in the rank's part of the placed stack


@dataclasses.dataclass(frozen=True)
class PlacedStack:
    """Pieces with the same layout stack, strategy and number of shards; see the module."""

    name: str
    source: int  # position in `EmbeddingLayout.stacks`
    strategy: Strategy  # never "replicated": replicated tables stay in stacks of the layout
    shards: int  # p
    width: int  # columns of a piece
    table_width: int  # columns of a whole row
    dtype: Literal["float32", "bfloat16"]
    optimizer: RowOptimizer
    rows: int  # V, rows of the fullest rank, rounded up if there are many; the others are padded to it
    pieces: tuple[Piece, ...]  # by rank, then by first row

    def pieces_of_rank(self, rank: int) -> tuple[Piece, ...]:
        """Returns the pieces of a rank, ordered by first row."""
        return tuple(piece for piece in self.pieces if piece.rank == rank)

    def pieces_of_table(self, table: str) -> tuple[Piece, ...]:
        """Returns the pieces of a table, ordered by rank."""
        return tuple(piece for piece in self.pieces if piece.table == table)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of its tables, without repetition."""
        return tuple(dict.fromkeys(piece.table for piece in self.pieces))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Placement of all tables of a layout on the ranks of a mesh."""

    ranks: int  # number of ranks of the mesh
    tables: Mapping[str, TablePlacement]
    stacks: tuple[PlacedStack, ...]  # stacks of the tables that are not replicated

    @property
    def replicated(self) -> tuple[str, ...]:
        """Names of the replicated tables."""
        return tuple(table for table, placed in self.tables.items() if placed.strategy == "replicated")


def build_placement(layout: EmbeddingLayout, tables: Mapping[str, TablePlacement], ranks: int) -> Placement:
    """Computes the pieces of all tables.

    Args:
      layout: layout of the tables.
      tables: placement of each table, by name.
      ranks: number of ranks of the mesh.

    Returns:
      The placement.

    Raises:
      UserError: a block of ranks is not aligned or not in the mesh, columns cannot be split evenly, or a rank has more
        rows in one stack than int32 row ids can address.
    """
    groups: dict[tuple[int, Strategy, int], list[tuple[str, int]]] = {}
    for index, stack in enumerate(layout.stacks):
        for table, rows in zip(stack.tables, stack.table_rows, strict=True):
            placed = tables[table]
            _check_table(table, placed, stack.width, ranks)
            if placed.strategy != "replicated":
                groups.setdefault((index, placed.strategy, placed.ranks), []).append((table, rows))
    stacks = tuple(
        _place_stack(layout.stacks[source], source, strategy, shards, members, tables)
        for (source, strategy, shards), members in groups.items()
    )
    return Placement(ranks, dict(tables), stacks)


def _check_table(table: str, placed: TablePlacement, width: int, ranks: int) -> None:
    if placed.strategy == "table_wise" and placed.ranks != 1:
        raise UserError(f"table {table!r}: table_wise on {placed.ranks} ranks; one rank holds it whole")
    if placed.strategy == "column_wise" and width % placed.ranks:
        raise UserError(
            f"table {table!r}: column_wise over {placed.ranks} ranks, but its width {width} does not divide by them; "
            "choose a divisor or another strategy"
        )
    if ranks % placed.ranks or placed.first_rank % placed.ranks or placed.first_rank + placed.ranks > ranks:
        raise UserError(
            f"table {table!r}: ranks {placed.first_rank} to {placed.first_rank + placed.ranks - 1} are not an aligned "
            f"block of {placed.ranks} among the mesh's {ranks}"
        )


def _round_up_rows(rows: int) -> int:
    """Rounds many rows up by at most 1/64, to a number that divides into the equal parts that files are cut into."""
    if rows <= _ROWS_TO_ROUND:
        return rows
    step = 1 << (rows.bit_length() - 7)
    return min(-(-rows // step) * step, MAX_STACK_ROWS)


def _place_stack(
    source: TableStack,
    source_index: int,
    strategy: Strategy,
    shards: int,
    members: list[tuple[str, int]],
    tables: Mapping[str, TablePlacement],
) -> PlacedStack:
    width = source.width // shards if strategy == "column_wise" else source.width
    used: dict[int, int] = {}
    pieces = []
    for table, rows in members:
        block = -(-rows // shards) if strategy == "row_wise" else rows
        for shard in range(shards):
            rank = tables[table].first_rank + shard
            start = min(shard * block, rows) if strategy == "row_wise" else 0
            first_row = used.get(rank, 0)
            used[rank] = first_row + block
            pieces.append(
                Piece(
                    table=table,
                    rank=rank,
                    row_start=start,
                    row_count=min(block, rows - start),
                    column_start=shard * width if strategy == "column_wise" else 0,
                    first_row=first_row,
                )
            )
    fullest = max(used.values())
    if fullest > MAX_STACK_ROWS:
        names = ", ".join(table for table, _ in members)
        raise UserError(
            f"rows = {fullest} of one rank in the {strategy} tables of width {source.width} ({names}): at most "
            f"{MAX_STACK_ROWS}; split them over more ranks"
        )
    return PlacedStack(
        name=f"{source.name}_{strategy}_{shards}",
        source=source_index,
        strategy=strategy,
        shards=shards,
        width=width,
        table_width=source.width,
        dtype=source.dtype,
        optimizer=source.optimizer,
        rows=_round_up_rows(fullest),
        pieces=tuple(sorted(pieces, key=lambda piece: (piece.rank, piece.first_row))),
    )
