"""Where pieces lie: every number of every table once, and blocks of ranks that the exchanges can rely on."""

import numpy as np
import pytest

from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, build_embedding_layout, restrict_layout
from wukong_jax.embeddings.placement import Placement, TablePlacement, build_placement
from wukong_jax.embeddings.placement_planner import count_table_bytes, format_plan, plan_placement
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source


def build_layout(rows: list[int], width: int = 16, kind: str = "rowwise_adagrad") -> EmbeddingLayout:
    columns = tuple(CategoricalColumn(f"t{i}", "identity", rows=count) for i, count in enumerate(rows))
    schema = Schema("made_up", Source("parquet"), labels=(LabelColumn("click"),), categorical=columns)
    return build_embedding_layout(schema, EmbeddingsConfig(width, RowOptimizer(kind, 0.1)))  # type: ignore[arg-type]


def count_coverage(layout: EmbeddingLayout, placement: Placement, table: str) -> np.ndarray:
    """How often each number of a table lies somewhere."""
    stack = layout.stacks[0]
    seen = np.zeros((stack.table_rows[stack.tables.index(table)], stack.width), int)
    for placed in placement.stacks:
        for piece in placed.pieces_of_table(table):
            rows = slice(piece.row_start, piece.row_start + piece.row_count)
            seen[rows, piece.column_start : piece.column_start + placed.width] += 1
    return seen


def test_every_number_lies_once_and_no_rows_overlap() -> None:
    layout = build_layout([100, 7, 3, 50])
    tables = {
        "t0": TablePlacement("row_wise", 0, 8),
        "t1": TablePlacement("column_wise", 4, 4),
        "t2": TablePlacement("row_wise", 0, 8),  # fewer rows than ranks
        "t3": TablePlacement("table_wise", 5),
    }
    placement = build_placement(layout, tables, 8)
    for table in tables:
        np.testing.assert_array_equal(count_coverage(layout, placement, table), 1)
    for stack in placement.stacks:
        for rank in range(8):
            used = [row for p in stack.pieces_of_rank(rank) for row in range(p.first_row, p.first_row + p.row_count)]
            assert len(used) == len(set(used))
            assert max(used, default=0) < stack.rows


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        (TablePlacement("column_wise", 1, 2), "not an aligned block of 2"),
        (TablePlacement("column_wise", 0, 3), "does not divide"),
        (TablePlacement("table_wise", 8), "not an aligned block"),
        (TablePlacement("table_wise", 0, 2), "table_wise on 2 ranks"),
    ],
)
def test_placements_that_cannot_be_are_refused(placed: TablePlacement, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_placement(build_layout([10]), {"t0": placed}, 8)


def test_planner_deals_out_equal_tables_evenly() -> None:
    plan = plan_placement(build_layout([100] * 16), 8)
    assert {t.placement.strategy for t in plan.tables} == {"table_wise"}
    assert len(set(plan.work_per_rank)) == len(set(plan.bytes_per_rank)) == 1


def test_planner_splits_columns_where_there_are_fewer_tables_than_ranks() -> None:
    plan = plan_placement(build_layout([100, 100]), 8)
    assert [(t.placement.strategy, t.placement.ranks) for t in plan.tables] == [("column_wise", 4)] * 2
    assert {t.placement.first_rank for t in plan.tables} == {0, 4}
    assert len(set(plan.work_per_rank)) == 1
    assert "4.0 chips' worth of work" in format_plan(plan)


def test_planner_splits_what_is_too_large_by_columns_then_by_rows() -> None:
    layout = build_layout([10_000] + [10] * 15)
    size = count_table_bytes(layout.stacks[0], 10_000)
    assert size == 10_000 * (16 * 4 + 4)  # rows and one accumulator each
    cases = {size * 2: "table_wise", size // 2 + 4000: "column_wise", size // 8 + 4000: "row_wise"}
    for budget, strategy in cases.items():
        plan = plan_placement(layout, 8, budget_bytes=budget)
        assert plan.tables[0].placement.strategy == strategy
        assert max(plan.bytes_per_rank) <= budget
    with pytest.raises(UserError, match=r"table 't0'.*do not fit .*row_wise over 8.*memory_gib"):
        plan_placement(layout, 8, budget_bytes=size // 9)


def test_planner_counts_what_a_rank_sends() -> None:
    layout = build_layout([100] * 8)
    sharded = plan_placement(layout, 8, "table_wise").traffic_per_example
    # 8 tables of 16 float32, 7 of 8 go elsewhere, forward and backward.
    assert sharded == 8 * 16 * 4 * 2 * 7 / 8
    replicated = plan_placement(layout, 8, "replicated").traffic_per_example
    assert replicated == 8 * 17 * 4 * 7  # every row's gradient and id to all others
    assert plan_placement(layout, 1).traffic_per_example == 0


def test_planner_honours_overrides_and_prints_reasons() -> None:
    plan = plan_placement(build_layout([100] * 8), 8, overrides={"t3": "row_wise"})
    assert plan.tables[3].placement == TablePlacement("row_wise", 0, 8)
    text = format_plan(plan)
    assert "row_wise 0-7" in text
    assert "as asked" in text
    assert text.count("\n") == 9


def test_restricted_layout_keeps_slots_and_recounts_rows() -> None:
    layout = build_layout([10, 20, 30])
    part = restrict_layout(layout, ["t2", "t0"])
    assert part.stacks[0].tables == ("t0", "t2")
    assert part.stacks[0].first_rows == (0, 10)
    assert (part.stacks[0].rows, part.stacks[0].slots) == (40, 2)
    assert [(f.column, f.slots, f.stack_slots, f.first_row) for f in part.fields] == [
        ("t0", (0, 1), (0, 1), 0),
        ("t2", (2, 3), (1, 2), 10),
    ]
