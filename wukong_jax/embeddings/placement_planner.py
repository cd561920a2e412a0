"""Chooses a placement of each table for the flat exchange, with reasons.

Criteria (`n` ranks, batch `B`; sizes in bytes of float32 vectors of width `w`):

* Memory: rows and their optimizer arrays must fit a chip's budget. A table that does not fit is split by columns, which
  keeps lookups whole, or by rows if columns would get narrower than four numbers.
* Traffic: a table- or column-wise vector is sent twice, `2 B w 4 / n` per chip and step. A row-wise vector takes a
  reduce-scatter and an all-gather of all vectors, `2 B w 4`. A replicated slot sends every chip's ids and row gradients
  to all others, `B (w + 1) 4`. Both are much more than the first, so tables are split by rows only if nothing else
  fits, and replicated only on request.
* Work: a rank reads and updates `B` times the slots of its tables, each `w` wide. A table with more than a rank's share
  of the work is split by columns. Tables are assigned in order of work, the heaviest first, each to the least loaded
  block of ranks that has room.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from wukong_jax.embeddings.layout import EmbeddingLayout, TableStack
from wukong_jax.embeddings.placement import PlacedStack, Placement, Strategy, TablePlacement, build_placement
from wukong_jax.embeddings.row_optimizers import declare_optimizer_arrays
from wukong_jax.errors import UserError

LEAST_COLUMNS = 4  # row ids of a piece narrower than 16 bytes would cost more than its vectors
MIB, GIB = 1 << 20, 1 << 30


@dataclasses.dataclass(frozen=True)
class PlannedTable:
    """One line of a plan."""

    table: str
    rows: int
    width: int
    ids_per_row: int  # slots per batch row that read the table
    vectors_per_row: int  # vectors per batch row after pooling
    bytes: int  # bytes of the whole table with its optimizer arrays
    placement: TablePlacement
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A placement of all tables, with its costs."""

    tables: tuple[PlannedTable, ...]
    bytes_per_rank: tuple[int, ...]  # bytes of each rank's tables, without padding
    allocated_bytes: int  # bytes allocated on every rank, where stacks are padded to the fullest rank
    traffic_per_example: float  # bytes of vectors, gradients and replicated ids sent by all ranks per batch row
    work_per_rank: tuple[int, ...]  # numbers that each rank reads and updates per row of the global batch

    @property
    def placements(self) -> dict[str, TablePlacement]:
        """Placements by table name."""
        return {planned.table: planned.placement for planned in self.tables}


@dataclasses.dataclass
class _Ledger:
    """Bytes and work assigned to each rank so far."""

    bytes: np.ndarray
    work: np.ndarray
    budget: int | None

    def find_block(self, shards: int, bytes_each: int) -> int | None:
        """Returns the first rank of the least loaded aligned block with room, or None if no block has room."""
        blocks = range(0, len(self.work) - shards + 1, shards)
        fitting = [
            first
            for first in blocks
            if self.budget is None or (self.bytes[first : first + shards] + bytes_each <= self.budget).all()
        ]
        return min(
            fitting,
            key=lambda f: (self.work[f : f + shards].max(), self.bytes[f : f + shards].max()),
            default=None,
        )

    def give(self, placement: TablePlacement, bytes_each: int, work_each: float) -> None:
        """Assigns a table to its ranks."""
        block = slice(placement.first_rank, placement.first_rank + placement.ranks)
        self.bytes[block] += bytes_each
        self.work[block] += round(work_each)


def plan_placement(
    layout: EmbeddingLayout,
    ranks: int,
    strategy: Strategy | Literal["auto"] = "auto",
    overrides: Mapping[str, Strategy] | None = None,
    budget_bytes: int | None = None,
    number_bytes: int = 4,
) -> Plan:
    """Plans the placement of all tables.

    Args:
      layout: layout of the tables.
      ranks: number of ranks of the mesh.
      strategy: strategy of all tables; "auto" chooses per table.
      overrides: strategies of single tables, by name.
      budget_bytes: maximum bytes per rank; None: no limit.
      number_bytes: bytes per number sent, 4 or 2; replicated tables always send 4.

    Returns:
      The plan.

    Raises:
      UserError: a table is unknown or does not fit; the message has the numbers.
    """
    overrides = overrides or {}
    check_table_names(layout, overrides)
    ledger = _Ledger(np.zeros(ranks, np.int64), np.zeros(ranks, np.int64), budget_bytes)
    tables = [_describe_table(layout, stack, table) for stack in layout.stacks for table in stack.tables]
    stack_of = {table: stack for stack in layout.stacks for table in stack.tables}
    share = sum(planned.ids_per_row * planned.width for planned in tables) / ranks
    placed = {}
    for candidate in sorted(tables, key=lambda t: (-t.ids_per_row * t.width, -t.bytes, t.table)):
        asked = overrides.get(candidate.table, strategy)
        placed[candidate.table] = _place_table(candidate, stack_of[candidate.table], asked, ranks, share, ledger)
    ordered = tuple(placed[candidate.table] for candidate in tables)
    placement = build_placement(layout, {planned.table: planned.placement for planned in ordered}, ranks)
    allocated = count_allocated_bytes(layout, placement)
    check_allocated(allocated, budget_bytes)
    traffic = _count_traffic(ordered, ranks, number_bytes)
    return Plan(ordered, tuple(ledger.bytes.tolist()), allocated, traffic, tuple(ledger.work.tolist()))


def check_table_names(layout: EmbeddingLayout, names: Iterable[str]) -> None:
    """Checks the table names in the option `tables`.

    Raises:
      UserError: a table is unknown.
    """
    known = [table for stack in layout.stacks for table in stack.tables]
    for table in names:
        if table not in known:
            raise UserError(f"tables.{table}: no such table; known: {', '.join(known)}")


def read_budget(memory_gib: float | None) -> int | None:
    """Converts the option `memory_gib` to bytes; None stays None.

    Raises:
      UserError: it is not a positive, finite number.
    """
    if memory_gib is None:
        return None
    if not (math.isfinite(memory_gib) and memory_gib > 0):
        raise UserError(f"memory_gib = {memory_gib}: above 0 and finite, or None for no limit")
    return int(memory_gib * GIB)


def count_allocated_bytes(layout: EmbeddingLayout, placement: Placement) -> int:
    """Counts the bytes of tables and optimizer arrays that every rank allocates, including padding."""
    total = 0
    for placed in placement.stacks:
        total += count_table_bytes(placed, placed.rows)
    for stack in layout.stacks:
        rows = sum(r for table, r in zip(stack.tables, stack.table_rows, strict=True) if table in placement.replicated)
        total += count_table_bytes(stack, rows)
    return total


def check_allocated(allocated: int, budget: int | None) -> None:
    """Checks that the padded tables fit the budget.

    Raises:
      UserError: a rank would allocate more than its budget.
    """
    if budget is not None and allocated > budget:
        raise UserError(
            f"memory_gib = {budget / GIB:.3g}: every chip allocates {allocated / GIB:.3g} GiB of tables, padded to the "
            "fullest chip of each width and split; place large tables column_wise or row_wise, use more chips or "
            "bfloat16 rows"
        )


def count_table_bytes(stack: TableStack | PlacedStack, rows: int, width: int | None = None) -> int:
    """Counts the bytes of rows and their optimizer arrays.

    Args:
      stack: stack with the rows' dtype and optimizer.
      rows: number of rows.
      width: columns of a piece; None: all columns of the stack. Every piece has a copy of arrays with one number per
        row.

    Returns:
      The number of bytes.
    """
    width = stack.width if width is None else width
    row = width * (4 if stack.dtype == "float32" else 2)
    for declared in declare_optimizer_arrays(stack.optimizer, width).values():
        row += 4 * int(np.prod(declared.trailing_shape, dtype=np.int64))
    return rows * (row + (4 if stack.optimizer.l2 > 0 else 0))


def format_plan(plan: Plan) -> str:
    """Formats the plan as a text table with reasons and the load of the ranks."""
    lines = [f"{'table':24} {'rows':>12} {'width':>5} {'ids':>4} {'MiB':>10}  {'placement':24} reason"]
    for table in plan.tables:
        placed = table.placement
        where: str = placed.strategy
        if placed.strategy != "replicated":
            last = placed.first_rank + placed.ranks - 1
            where += f" {placed.first_rank}" + (f"-{last}" if placed.ranks > 1 else "")
        lines.append(
            f"{table.table[:24]:24} {table.rows:12,} {table.width:5} {table.ids_per_row:4} "
            f"{table.bytes / MIB:10,.2f}  {where:24} {table.reason}"
        )
    megabytes, work = np.array(plan.bytes_per_rank) / MIB, np.array(plan.work_per_rank)
    lines.append(
        f"the tables of a chip take {megabytes.min():,.2f} to {megabytes.max():,.2f} MiB "
        f"({plan.allocated_bytes / MIB:,.2f} allocated on each); it reads {work.min():,} to {work.max():,} numbers "
        f"per row of the global batch; {plan.traffic_per_example:,.0f} bytes cross links per row"
    )
    return "\n".join(lines)


def _describe_table(layout: EmbeddingLayout, stack: TableStack, table: str) -> PlannedTable:
    rows = stack.table_rows[stack.tables.index(table)]
    readers = [field for field in layout.fields if field.table == table]
    slots, vectors = sum(field.length for field in readers), sum(field.vectors for field in readers)
    size = count_table_bytes(stack, rows)
    return PlannedTable(table, rows, stack.width, slots, vectors, size, TablePlacement("replicated"), "")


def _place_table(
    table: PlannedTable,
    stack: TableStack,
    asked: Strategy | Literal["auto"],
    ranks: int,
    share: float,
    ledger: _Ledger,
) -> PlannedTable:
    """Places a table by the first candidate that fits."""
    candidates = _list_candidates(table, asked, ranks, share)
    for strategy, shards, reason in candidates:
        narrow = shards if strategy == "column_wise" else 1
        rows_each = -(-table.rows // shards) if strategy == "row_wise" else table.rows
        bytes_each = count_table_bytes(stack, rows_each, table.width // narrow)
        work_each = table.ids_per_row * table.width / (ranks if strategy == "replicated" else narrow)
        everywhere = ranks if strategy == "replicated" else shards
        first = ledger.find_block(everywhere, bytes_each)
        if first is not None:
            booked = TablePlacement(strategy, first, everywhere)
            ledger.give(booked, bytes_each, work_each)
            placement = TablePlacement("replicated") if strategy == "replicated" else booked
            return dataclasses.replace(table, placement=placement, reason=reason)
    assert ledger.budget is not None
    free = (ledger.budget - ledger.bytes) / GIB
    tried = ", ".join(f"{kind} over {shards}" for kind, shards, _ in candidates)
    raise UserError(
        f"table {table.table!r}: {table.bytes / GIB:.3g} GiB do not fit ({tried}): the {ranks} chips have "
        f"{free.min():.3g} to {free.max():.3g} GiB left of memory_gib = {ledger.budget / GIB:.3g}; use "
        "more chips, bfloat16 rows, fewer rows (hashing) or row-wise AdaGrad"
    )


def _list_candidates(
    table: PlannedTable, asked: Strategy | Literal["auto"], ranks: int, share: float
) -> Sequence[tuple[Strategy, int, str]]:
    """Lists candidates as (strategy, shards, reason), in order of preference."""
    splits = [p for p in range(1, ranks + 1) if ranks % p == 0 and table.width % p == 0]
    if ranks == 1:
        return [("replicated", 1, "one chip holds all")]
    if asked == "replicated":
        return [("replicated", 1, "as asked")]
    if asked == "table_wise":
        return [("table_wise", 1, "as asked")]
    if asked == "column_wise":
        return [("column_wise", splits[-1], f"as asked, over the most of {ranks} chips that divide its width")]
    if asked == "row_wise":
        return [("row_wise", ranks, "as asked")]
    useful = [p for p in splits if table.width // p >= LEAST_COLUMNS or p == 1]
    wanted = table.ids_per_row * table.width / share  # chips' worth of work
    start = next((p for p in useful if p >= wanted), useful[-1])
    candidates: list[tuple[Strategy, int, str]] = []
    for shards in (p for p in useful if p >= start):
        if shards == 1:
            candidates.append(("table_wise", 1, "fits a chip whole"))
        else:
            reason = "too large for fewer chips" if shards > start else f"{wanted:.1f} chips' worth of work"
            candidates.append(("column_wise", shards, reason))
    candidates.append(("row_wise", ranks, "too large for any split by columns"))
    return candidates


def _count_traffic(tables: Sequence[PlannedTable], ranks: int, number_bytes: int) -> float:
    """Counts the bytes that all ranks send per row of the global batch, forward and backward.

    Ids of sharded tables and padding are not counted.
    """
    total = 0.0
    for table in tables:
        others = ranks - 1
        vectors = 2 * table.vectors_per_row * table.width * number_bytes  # forward and backward
        if table.placement.strategy == "replicated":
            total += others * table.ids_per_row * (table.width + 1) * 4
        elif table.placement.strategy == "row_wise":
            total += others * vectors
        else:
            total += others / ranks * vectors
    return total
