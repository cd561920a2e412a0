"""Chooses each table's placement for the flat exchange, and says why.

What decides (`n` ranks, batch `B`; sizes in bytes of float32 vectors of width `w`):

* Memory: rows with their optimizer's arrays must fit a chip's budget. A table that does not is split by columns, which
  keeps look-ups whole, and by rows where columns would get narrower than four numbers.
* Traffic: a sharded slot crosses twice, `2 B w 4 / n` a chip and step. A replicated one sends every chip's ids and row
  gradients to all others, `B (w + 1) 4` a chip, `n / 2` times as much; so tables are replicated only when asked for.
* Work: a rank reads and updates `B` times the slots of its tables, each `w` wide. Where one table has more than its
  share, or there are fewer tables than ranks, it is split by columns; the rest are dealt out, the heaviest first, each
  to the block of ranks that is least loaded and has room.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from wukong_jax.embeddings.layout import EmbeddingLayout, TableStack
from wukong_jax.embeddings.placement import Strategy, TablePlacement
from wukong_jax.embeddings.row_optimizers import declare_optimizer_arrays
from wukong_jax.errors import UserError

LEAST_COLUMNS = 4  # a piece narrower than 16 bytes costs more in row numbers than it carries
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class PlannedTable:
    """One line of a plan."""

    table: str
    rows: int
    width: int
    ids_per_row: int  # slots of a batch row that read it
    bytes: int  # of rows and optimizer arrays, whole
    placement: TablePlacement
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A placement of all tables, with what it costs every rank."""

    tables: tuple[PlannedTable, ...]
    bytes_per_rank: tuple[int, ...]
    traffic_per_example: float  # bytes of vectors and gradients that a rank sends for one of its batch rows
    work_per_rank: tuple[int, ...]  # numbers read and updated for one row of the global batch

    @property
    def placements(self) -> dict[str, TablePlacement]:
        """Table to placement."""
        return {planned.table: planned.placement for planned in self.tables}


@dataclasses.dataclass
class _Ledger:
    """What has been given to each rank so far."""

    bytes: np.ndarray
    work: np.ndarray
    budget: int | None

    def find_block(self, shards: int, bytes_each: int, work_each: float) -> int | None:
        """The first rank of the least loaded aligned block with room; None where no block has."""
        blocks = range(0, len(self.work) - shards + 1, shards)
        fitting = [
            first
            for first in blocks
            if self.budget is None or (self.bytes[first : first + shards] + bytes_each <= self.budget).all()
        ]
        return min(
            fitting,
            key=lambda f: (self.work[f : f + shards].max() + work_each, self.bytes[f : f + shards].max()),
            default=None,
        )

    def give(self, placement: TablePlacement, bytes_each: int, work_each: float) -> None:
        """Books a table."""
        block = slice(placement.first_rank, placement.first_rank + placement.ranks)
        self.bytes[block] += bytes_each
        self.work[block] += round(work_each)


def plan_placement(
    layout: EmbeddingLayout,
    ranks: int,
    strategy: Strategy | Literal["auto"] = "auto",
    overrides: Mapping[str, Strategy] | None = None,
    budget_bytes: int | None = None,
) -> Plan:
    """Places every table.

    Args:
      layout: the tables.
      ranks: devices of the mesh.
      strategy: of every table; "auto" chooses.
      overrides: table to strategy.
      budget_bytes: what a rank may hold; None: no limit is known.

    Returns:
      The plan.

    Raises:
      UserError: an unknown table, or tables that do not fit, with the numbers.
    """
    overrides = overrides or {}
    known = [table for stack in layout.stacks for table in stack.tables]
    for table in overrides:
        if table not in known:
            raise UserError(f"tables.{table}: no such table; known: {', '.join(known)}")
    ledger = _Ledger(np.zeros(ranks, np.int64), np.zeros(ranks, np.int64), budget_bytes)
    tables = [_describe_table(layout, stack, table) for stack in layout.stacks for table in stack.tables]
    share = sum(planned.ids_per_row * planned.width for planned in tables) / ranks
    placed = {}
    for candidate in sorted(tables, key=lambda t: (-t.ids_per_row * t.width, -t.bytes, t.table)):
        asked = overrides.get(candidate.table, strategy)
        placed[candidate.table] = _place_table(candidate, asked, ranks, share, ledger)
    ordered = tuple(placed[candidate.table] for candidate in tables)
    return Plan(ordered, tuple(ledger.bytes.tolist()), _count_traffic(ordered, ranks), tuple(ledger.work.tolist()))


def count_table_bytes(stack: TableStack, rows: int) -> int:
    """Bytes of so many rows of a stack with their optimizer's arrays."""
    row = stack.width * (4 if stack.dtype == "float32" else 2)
    for declared in declare_optimizer_arrays(stack.optimizer, stack.width).values():
        row += 4 * int(np.prod(declared.trailing_shape, dtype=np.int64))
    return rows * (row + (4 if stack.optimizer.l2 > 0 else 0))


def format_plan(plan: Plan) -> str:
    """The plan as a table of text, with its reasons and the load of the ranks."""
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
        f"a chip holds {megabytes.min():,.2f} to {megabytes.max():,.2f} MiB, reads {work.min():,} to {work.max():,} "
        f"numbers per row of the global batch, and sends {plan.traffic_per_example:,.0f} bytes per row of its own"
    )
    return "\n".join(lines)


def _describe_table(layout: EmbeddingLayout, stack: TableStack, table: str) -> PlannedTable:
    rows = stack.table_rows[stack.tables.index(table)]
    slots = sum(field.length for field in layout.fields if field.table == table)
    size = count_table_bytes(stack, rows)
    return PlannedTable(table, rows, stack.width, slots, size, TablePlacement("replicated"), "")


def _place_table(
    table: PlannedTable, asked: Strategy | Literal["auto"], ranks: int, share: float, ledger: _Ledger
) -> PlannedTable:
    """Books the first candidate that fits."""
    candidates = _list_candidates(table, asked, ranks, share)
    for strategy, shards, reason in candidates:
        bytes_each = table.bytes if strategy == "replicated" else -(-table.bytes // shards)
        narrow = shards if strategy == "column_wise" else 1
        work_each = table.ids_per_row * table.width / (ranks if strategy == "replicated" else narrow)
        everywhere = ranks if strategy == "replicated" else shards
        first = ledger.find_block(everywhere, bytes_each, work_each)
        if first is not None:
            booked = TablePlacement(strategy, first, everywhere)
            ledger.give(booked, bytes_each, work_each)
            placement = TablePlacement("replicated") if strategy == "replicated" else booked
            return dataclasses.replace(table, placement=placement, reason=reason)
    assert ledger.budget is not None
    free = (ledger.budget - ledger.bytes) / MIB
    tried = ", ".join(f"{kind} over {shards}" for kind, shards, _ in candidates)
    raise UserError(
        f"table {table.table!r}: {table.bytes / MIB:,.1f} MiB do not fit ({tried}): the {ranks} chips have "
        f"{free.min():,.1f} to {free.max():,.1f} MiB left of memory_gib = {ledger.budget / MIB / 1024:g}; use "
        "more chips, bfloat16 rows, fewer rows (hashing) or row-wise AdaGrad"
    )


def _list_candidates(
    table: PlannedTable, asked: Strategy | Literal["auto"], ranks: int, share: float
) -> Sequence[tuple[Strategy, int, str]]:
    """(strategy, shards, reason), the preferred one first."""
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


def _count_traffic(tables: Sequence[PlannedTable], ranks: int) -> float:
    """Bytes that a rank sends per batch row of its own, forward and backward, float32; padding left out."""
    total = 0.0
    for table in tables:
        others = (ranks - 1) * table.ids_per_row * 4
        if table.placement.strategy == "replicated":
            total += others * (table.width + 1)
        else:  # to its owners and, as an owner, to all batch rows: once forward, once backward
            total += others / ranks * 2 * table.width
    return total
