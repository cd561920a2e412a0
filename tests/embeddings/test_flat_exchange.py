"""Tests the flat exchange: every placement on eight devices reads, trains, saves and restores as one device does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from wukong_jax.embeddings.exchange import Exchange, ReplicatedExchange
from wukong_jax.embeddings.flat_exchange import FlatExchange, build
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.placement import TablePlacement, build_placement
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import LogicalTables, Tables
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.mesh import MESH_AXES, build_mesh

B, D = 32, 8
MIXED = {
    "user": TablePlacement("column_wise", 2, 2),
    "tags": TablePlacement("table_wise", 5),
    "hour": TablePlacement("replicated"),
    "item": TablePlacement("row_wise", 0, 8),
    "city": TablePlacement("column_wise", 4, 4),
    "shop": TablePlacement("table_wise", 5),
    "day": TablePlacement("table_wise", 0),
}


def build_layout(kind: str = "rowwise_adagrad", dtype: str = "float32", l2: float = 0.0) -> EmbeddingLayout:
    """Returns a layout with sum, mean and unpooled bags, a shared and a narrow table, several embeddings per value."""
    schema = Schema(
        "clicks",
        Source("parquet"),
        labels=(LabelColumn("click"),),
        categorical=(
            CategoricalColumn("user", "identity", rows=41),
            CategoricalColumn("tags", "identity", rows=7, separator="|", max_length=3),
            CategoricalColumn("hour", "identity", rows=24),
            CategoricalColumn("item", "identity", rows=50),
            CategoricalColumn("city", "identity", rows=9),
            CategoricalColumn("shop", "identity", rows=5, separator="|", max_length=2),
            CategoricalColumn("day", "identity", rows=8),
        ),
        sequences=(CategoricalColumn("clicked", separator="|", max_length=4, vocabulary_of="item"),),
    )
    fields = {
        "user": FieldOverride(count=2),
        "shop": FieldOverride(pooling="mean"),
        "clicked": FieldOverride(pooling="none"),
        "day": FieldOverride(width=4),
    }
    return build_embedding_layout(
        schema, EmbeddingsConfig(D, RowOptimizer(kind, 0.1, l2=l2), dtype=dtype, fields=fields)
    )  # type: ignore[arg-type]


def draw_ids(layout: EmbeddingLayout, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(-1, f.rows + 1, B) for f in layout.fields for _ in range(f.length)], axis=1)
    ids[-4:] = -1  # padding rows
    return ids.astype(np.int32)


def place_all(layout: EmbeddingLayout, strategy: str, ranks: int) -> dict[str, TablePlacement]:
    shards = {"table_wise": 1, "column_wise": 4, "row_wise": ranks, "replicated": 1}[strategy]
    tables = [table for stack in layout.stacks for table in stack.tables]
    blocks = ranks // shards
    return {
        table: TablePlacement(strategy, 0 if strategy == "replicated" else i % blocks * shards, shards)  # type: ignore[arg-type]
        for i, table in enumerate(tables)
    }


def run_steps(exchange: Exchange, layout: EmbeddingLayout, steps: int = 3) -> tuple[LogicalTables, list, Tables]:
    by_batch = NamedSharding(exchange.mesh, PartitionSpec(MESH_AXES))  # type: ignore[attr-defined]
    tables = exchange.init_tables(jax.random.PRNGKey(0))
    noises = {s.name: np.random.default_rng(5).standard_normal((B, s.vectors, s.width)) for s in layout.stacks}

    def step(tables: Tables, ids: jax.Array, noise: dict, index: jax.Array) -> tuple[Tables, dict]:
        routed = exchange.route_ids(ids)
        rows = exchange.gather(tables, routed)
        collect = lambda rows: exchange.collect(rows, routed)  # noqa: E731
        loss = lambda rows: sum(jnp.sum(v * noise[k]) for k, v in collect(rows).items())  # noqa: E731
        gradients = jax.grad(loss)(rows)
        key = jax.random.PRNGKey(7)
        updated = exchange.apply_row_gradients(tables, routed, rows, gradients, RowStep(index, jnp.float32(0.5), key))
        return updated, collect(rows)

    step = jax.jit(step, donate_argnums=0)
    collected = []
    for index in range(steps):
        ids = jax.device_put(draw_ids(layout, index), by_batch)
        noise = jax.device_put({k: v.astype(np.float32) for k, v in noises.items()}, by_batch)
        tables, values = step(tables, ids, noise, jnp.int32(index))
        collected.append(jax.tree.map(np.array, values))
    return exchange.export_tables(tables), collected, tables


def run_flat(layout: EmbeddingLayout, tables: dict[str, TablePlacement], hosts: int = 2, dtype: str = "float32"):
    mesh = build_mesh(hosts, 8 // hosts)
    exchange = FlatExchange(layout, mesh, build_placement(layout, tables, 8), dtype)  # type: ignore[arg-type]
    return exchange, *run_steps(exchange, layout)


@pytest.fixture(scope="module")
def one_device():
    results = {}

    def run(kind: str = "rowwise_adagrad", l2: float = 0.0):
        if (kind, l2) not in results:
            layout = build_layout(kind, l2=l2)
            results[kind, l2] = run_steps(ReplicatedExchange(layout, build_mesh(1, 1)), layout)
        return results[kind, l2]

    return run


@pytest.mark.parametrize("strategy", ["mixed", "table_wise", "column_wise", "row_wise", "replicated"])
@pytest.mark.parametrize("hosts", [2, 8])
def test_every_placement_on_eight_devices_equals_one_device(one_device, strategy: str, hosts: int) -> None:
    layout = build_layout()
    _, tables, values, _ = run_flat(layout, MIXED if strategy == "mixed" else place_all(layout, strategy, 8), hosts)
    expected, expected_values, _ = one_device()
    # The first step reads rows that nobody has updated: not a bit may differ. Bags split by rows add up in another
    # order.
    compare = (
        np.testing.assert_array_equal
        if strategy in ("table_wise", "column_wise", "replicated")
        else (lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7))
    )
    jax.tree.map(compare, values[0], expected_values[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), tables, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), values, expected_values)


@pytest.mark.parametrize(("kind", "l2"), [("lazy_adam", 0.1), ("adagrad", 0.0), ("sgd", 0.1), ("rowwise_adagrad", 0.1)])
def test_every_optimizer_equals_one_device(one_device, kind: str, l2: float) -> None:
    _, tables, _, _ = run_flat(build_layout(kind, l2=l2), MIXED)
    # Sums over slots in another order, through Adam's roots; untouched rows are equal.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), tables, one_device(kind, l2)[0])


def test_tables_restore_under_any_other_placement() -> None:
    layout = build_layout("lazy_adam", l2=0.1)
    _, logical, _, _ = run_flat(layout, MIXED)
    for strategy in ("table_wise", "column_wise", "row_wise", "replicated"):
        placement = build_placement(layout, place_all(layout, strategy, 8), 8)
        exchange = FlatExchange(layout, build_mesh(4, 2), placement)
        again = exchange.export_tables(exchange.import_tables(logical))
        jax.tree.map(np.testing.assert_array_equal, again, logical)
    one = ReplicatedExchange(layout, build_mesh(1, 1))
    jax.tree.map(np.testing.assert_array_equal, one.export_tables(one.import_tables(logical)), logical)


def test_bfloat16_rows_start_equal_and_update_in_place() -> None:
    layout = build_layout(dtype="bfloat16")
    exchange = FlatExchange(layout, build_mesh(2, 4), build_placement(layout, MIXED, 8))
    one = ReplicatedExchange(layout, build_mesh(1, 1))
    key = jax.random.PRNGKey(3)
    start, expected = (e.export_tables(e.init_tables(key)) for e in (exchange, one))
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16)) if a.ndim == 2 else None,
        start,
        expected,
    )
    tables, _, _ = run_steps(exchange, layout)
    moved = sum(int((tables[t]["rows"] != start[t]["rows"]).any(axis=1).sum()) for t in tables)
    assert moved > 50
    assert all(np.isfinite(tables[t]["rows"].astype(np.float32)).all() for t in tables)


def test_bfloat16_exchange_rounds_once() -> None:
    layout = build_layout()
    _, _, values, _ = run_flat(layout, place_all(layout, "table_wise", 8), dtype="bfloat16")
    _, _, exact, _ = run_flat(layout, place_all(layout, "table_wise", 8))
    rounded = jax.tree.map(lambda v: np.array(jnp.asarray(v).astype(jnp.bfloat16).astype(jnp.float32)), exact[0])
    jax.tree.map(np.testing.assert_array_equal, values[0], rounded)


@pytest.mark.parametrize("strategy", ["table_wise", "column_wise", "row_wise"])
def test_no_table_sized_temporary_and_every_array_in_place(strategy: str) -> None:
    sizes = {}
    for rows in (40_000, 400_000):
        schema = Schema(
            "big",
            Source("parquet"),
            labels=(LabelColumn("click"),),
            categorical=tuple(CategoricalColumn(f"c{i}", "identity", rows=rows) for i in range(8)),
        )
        layout = build_embedding_layout(schema, EmbeddingsConfig(D, RowOptimizer("adagrad", 0.1)))
        exchange = FlatExchange(layout, build_mesh(2, 4), build_placement(layout, place_all(layout, strategy, 8), 8))

        def step(tables: Tables, ids: jax.Array, exchange: FlatExchange = exchange) -> Tables:
            routed = exchange.route_ids(ids)
            gathered = exchange.gather(tables, routed)
            key = jax.random.PRNGKey(0)
            return exchange.apply_row_gradients(
                tables, routed, gathered, gathered, RowStep(jnp.int32(0), jnp.float32(1), key)
            )

        shapes = jax.eval_shape(exchange.init_tables, jax.random.PRNGKey(0))
        placed = jax.tree.map(
            lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=p),
            shapes,
            jax.tree.broadcast(exchange.table_sharding, shapes),
        )
        ids = jax.ShapeDtypeStruct((B, 8), jnp.int32, sharding=NamedSharding(exchange.mesh, PartitionSpec(MESH_AXES)))
        memory = jax.jit(step, donate_argnums=0).lower(placed, ids).compile().memory_analysis()
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) // 8
        assert memory.alias_size_in_bytes == state_bytes
        sizes[rows] = memory.temp_size_in_bytes
    assert abs(sizes[400_000] - sizes[40_000]) < 4096  # alignment of buffers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "by_hand"}, "config.exchange.options.placement = 'by_hand'"),
        ({"tables": {"nobody": "row_wise"}}, "tables.nobody: no such table"),
        ({"memory_gib": 1e-7}, "do not fit"),
        ({"memory_gib": 0.0}, "memory_gib = 0.0: above 0"),
        ({"colour": 1}, "config.exchange.options.colour"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(options, build_layout(), build_mesh(2, 4), None)


def test_a_row_wise_table_on_some_ranks_is_refused() -> None:
    layout = build_layout()
    placement = build_placement(
        layout, place_all(layout, "table_wise", 8) | {"item": TablePlacement("row_wise", 0, 4)}, 8
    )
    with pytest.raises(UserError, match="row_wise over 4 ranks"):
        FlatExchange(layout, build_mesh(2, 4), placement)
