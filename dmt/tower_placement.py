"""Placement of embedding tables for towers: each table on the host of its tower, whole or split over its chips."""

from collections.abc import Mapping
from typing import Literal

from dmt.towers import TowerLayout
from wukong_jax.embeddings.layout import EmbeddingLayout
from wukong_jax.embeddings.placement import Strategy, TablePlacement
from wukong_jax.embeddings.placement_planner import check_table_names
from wukong_jax.errors import UserError


def place_towers(
    layout: EmbeddingLayout,
    towers: TowerLayout,
    hosts: int,
    chips: int,
    strategy: Literal["auto", "table_wise", "column_wise", "row_wise"],
    overrides: Mapping[str, Strategy],
) -> dict[str, TablePlacement]:
    """Places every table on the host of the tower that reads it.

    "auto" splits tables by columns over all chips of the host, so that each chip has the same work and no vector is
    padded. If the width is not divisible by the number of chips, it splits by rows.

    Args:
      layout: embedding layout with the tables.
      towers: columns of each tower; `hosts` divides the number of towers.
      hosts: H.
      chips: C.
      strategy: placement of all tables within their host.
      overrides: strategies of single tables, by table name.

    Returns:
      Placements by table name.

    Raises:
      UserError: a table is shared by towers on several hosts, unknown, or replicated.
    """
    placed = {}
    work = [[0] * chips for _ in range(hosts)]  # of each chip, from tables placed whole
    check_table_names(layout, overrides)
    tables = [(table, stack) for stack in layout.stacks for table in stack.tables]
    slots = {table: sum(field.length for field in layout.fields if field.table == table) for table, _ in tables}
    # Heaviest table first, so that whole tables spread evenly over a host's chips.
    for table, stack in sorted(tables, key=lambda pair: -slots[pair[0]] * pair[1].width):
        host = _find_host(layout, towers, table, hosts)
        chosen = _choose_strategy(table, overrides.get(table, strategy), stack.width, chips)
        if chosen == "table_wise":
            chip = work[host].index(min(work[host]))
            work[host][chip] += slots[table] * stack.width
            placed[table] = TablePlacement("table_wise", host * chips + chip, 1)
        else:
            placed[table] = TablePlacement(chosen, host * chips, chips)
    return placed


def _find_host(layout: EmbeddingLayout, towers: TowerLayout, table: str, hosts: int) -> int:
    columns = [field.column for field in layout.fields if field.table == table]
    found = {towers.tower_of(column) * hosts // towers.count for column in columns}
    if len(found) > 1:
        raise UserError(
            f"table {table!r}: its columns {', '.join(columns)} are in towers of {len(found)} hosts, but a table lies "
            "on one; put them in one tower, or give each column its own vocabulary"
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
            f"table {table!r} = 'column_wise': its width {width} does not divide over the {chips} chips of a host; use "
            "row_wise or table_wise"
        )
    return asked  # type: ignore[return-value]
