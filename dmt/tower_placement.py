"""Where the tables of towers lie: each on its tower's host, split or not among that host's chips."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from dmt.towers import TowerLayout
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.placement import Strategy, TablePlacement
from wukong_jax.embeddings.placement_planner import count_table_bytes
from wukong_jax.errors import UserError

GIB = 1 << 30


@dataclasses.dataclass
class _Host:
    """What a host's chips have been given."""

    bytes: list[float]  # of each chip
    work: list[float]


def place_towers(
    layout: EmbeddingLayout,
    towers: TowerLayout,
    hosts: int,
    chips: int,
    strategy: Literal["auto", "table_wise", "column_wise", "row_wise"],
    overrides: Mapping[str, Strategy],
    budget_bytes: int | None,
) -> dict[str, TablePlacement]:
    """Places every table on the host of the tower that reads it.

    "auto" splits by columns over all of the host's chips, so that each has the same work and no vector is padded; by
    rows where the width does not divide.

    Args:
      layout: the tables.
      towers: the columns of each tower; hosts divide their number.
      hosts: H.
      chips: C.
      strategy: of all tables, inside their host.
      overrides: table to strategy.
      budget_bytes: what a chip may hold; None: no limit is known.

    Returns:
      Table name to placement.

    Raises:
      UserError: a table that towers of several hosts share, an unknown one, a replicated one, or a host whose tables do
        not fit.
    """
    placed = {}
    used = [_Host([0.0] * chips, [0.0] * chips) for _ in range(hosts)]
    known = [table for stack in layout.stacks for table in stack.tables]
    for table in overrides:
        if table not in known:
            raise UserError(f"tables.{table}: no such table; known: {', '.join(known)}")
    for stack in layout.stacks:
        for table, rows in zip(stack.tables, stack.table_rows, strict=True):
            host = _find_host(layout, towers, table, hosts)
            chosen = _choose_strategy(table, overrides.get(table, strategy), stack.width, chips)
            size = count_table_bytes(stack, rows)
            work = stack.width * sum(field.length for field in layout.fields if field.table == table)
            if chosen == "table_wise":
                own = used[host]
                chip = min(range(chips), key=lambda c: (own.work[c], own.bytes[c]))
                placed[table] = TablePlacement("table_wise", host * chips + chip, 1)
                own.bytes[chip] += size
                own.work[chip] += work
            else:
                placed[table] = TablePlacement(chosen, host * chips, chips)
                for chip in range(chips):
                    used[host].bytes[chip] += size / chips
                    used[host].work[chip] += work / chips
    _check_memory(used, budget_bytes)
    return placed


def _find_host(layout: EmbeddingLayout, towers: TowerLayout, table: str, hosts: int) -> int:
    columns = [field.column for field in layout.fields if field.table == table]
    found = {towers.tower_of(column) * hosts // towers.count for column in columns}
    if len(found) > 1:
        raise UserError(
            f"table {table!r}: its columns {', '.join(columns)} are in towers of {len(found)} hosts, but a table lies "
            "on one; put them in one tower, or give each column a vocabulary of its own"
        )
    return found.pop()


def _choose_strategy(table: str, asked: str, width: int, chips: int) -> Strategy:
    if asked == "auto":
        return "column_wise" if width % chips == 0 else "row_wise"
    if asked == "replicated":
        raise UserError(
            f"tables.{table} = 'replicated': towers hold tables on one host; use table_, column_ or row_wise"
        )
    if asked == "column_wise" and width % chips:
        raise UserError(
            f"table {table!r}: column_wise over {chips} chips of a host do not divide its width {width}; "
            "use row_wise or table_wise"
        )
    return asked  # type: ignore[return-value]


def _check_memory(used: list[_Host], budget: int | None) -> None:
    if budget is None:
        return
    for index, host in enumerate(used):
        if max(host.bytes) > budget:
            raise UserError(
                f"host {index}: its towers' tables take {max(host.bytes) / GIB:.3g} GiB of a chip, memory_gib = "
                f"{budget / GIB:.3g}; move columns to other towers, use more hosts, or bfloat16 rows"
            )
