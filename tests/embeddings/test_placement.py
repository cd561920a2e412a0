"""Tests placement: pieces cover every number of every table once, and the blocks of ranks that exchanges rely on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from wukong_jax.embeddings.flat_exchange import FlatExchange
from wukong_jax.embeddings.layout import (
    EmbeddingLayout,
    EmbeddingsConfig,
    FieldOverride,
    build_embedding_layout,
    restrict_layout,
)
from wukong_jax.embeddings.placement import Placement, TablePlacement, build_placement
from wukong_jax.embeddings.placement_planner import count_table_bytes, format_plan, plan_placement
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import Tables
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.mesh import MESH_AXES, build_mesh
from wukong_jax.sharding.traffic.step_traffic import EMBEDDINGS, measure_traffic


def build_layout(rows: list[int], width: int = 16, kind: str = "rowwise_adagrad") -> EmbeddingLayout:
    columns = tuple(CategoricalColumn(f"t{i}", "identity", rows=count) for i, count in enumerate(rows))
    schema = Schema("made_up", Source("parquet"), labels=(LabelColumn("click"),), categorical=columns)
    return build_embedding_layout(schema, EmbeddingsConfig(width, RowOptimizer(kind, 0.1)))  # type: ignore[arg-type]


def count_coverage(layout: EmbeddingLayout, placement: Placement, table: str) -> np.ndarray:
    """Counts how often each number of a table is placed."""
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
        (TablePlacement("row_wise", 0, 3), "not an aligned block of 3"),
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


@pytest.mark.parametrize("strategy", ["table_wise", "column_wise", "row_wise", "replicated"])
def test_planned_traffic_is_what_the_compiled_exchange_sends(strategy: str) -> None:
    # As many single columns as ranks and as many bags: nothing is padded, which a plan leaves out.
    batch, columns = 32, [CategoricalColumn(f"t{i}", "identity", rows=40) for i in range(8)]
    columns += [CategoricalColumn(f"b{i}", "identity", rows=40, separator="|", max_length=3) for i in range(8)]
    schema = Schema("bags", Source("parquet"), labels=(LabelColumn("click"),), categorical=tuple(columns))
    layout = build_embedding_layout(schema, EmbeddingsConfig(16, RowOptimizer("sgd", 0.1)))
    plan = plan_placement(layout, 8, strategy)  # type: ignore[arg-type]
    exchange = FlatExchange(layout, build_mesh(2, 4), build_placement(layout, plan.placements, 8))

    def step(tables: Tables, ids: jax.Array) -> Tables:
        routed = exchange.route_ids(ids)
        rows = exchange.gather(tables, routed)
        values, pull = jax.vjp(lambda rows: exchange.collect(rows, routed), rows)
        row_step = RowStep(jnp.int32(0), jnp.float32(1), jax.random.PRNGKey(0))
        return exchange.apply_row_gradients(tables, routed, rows, *pull(values), row_step)

    shapes = jax.eval_shape(exchange.init_tables, jax.random.PRNGKey(0))
    placed = jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
        shapes,
        jax.tree.broadcast(exchange.table_sharding, shapes),
    )
    ids = jax.ShapeDtypeStruct(
        (batch, layout.slots), jnp.int32, sharding=NamedSharding(exchange.mesh, PartitionSpec(MESH_AXES))
    )
    traffic = measure_traffic(jax.jit(step).lower(placed, ids).compile().as_text(), 2, 4)
    purpose = None if strategy == "replicated" else EMBEDDINGS  # what is replicated moves in the update
    assert traffic.total(purpose=purpose) == plan.traffic_per_example * batch


def test_planner_knows_the_padding_of_every_stack() -> None:
    # Three widths make three stacks; each has one table, on a rank of its own, and all ranks allocate all three.
    schema = Schema(
        "widths",
        Source("parquet"),
        labels=(LabelColumn("click"),),
        categorical=tuple(CategoricalColumn(f"t{i}", "identity", rows=1000) for i in range(3)),
    )
    fields = {"t1": FieldOverride(count=2), "t2": FieldOverride(count=3)}
    layout = build_embedding_layout(schema, EmbeddingsConfig(16, RowOptimizer("sgd", 0.1), fields=fields))
    plan = plan_placement(layout, 4, "table_wise")
    assert sorted(plan.bytes_per_rank) == [0, 64_000, 128_000, 192_000]
    assert plan.allocated_bytes == 384_000
    with pytest.raises(UserError, match=r"memory_gib = 0.000186: every chip allocates 0.000358 GiB of tables, padded"):
        plan_placement(layout, 4, "table_wise", budget_bytes=200_000)


def test_one_chip_sends_nothing() -> None:
    assert plan_placement(build_layout([100] * 8), 1).traffic_per_example == 0


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
