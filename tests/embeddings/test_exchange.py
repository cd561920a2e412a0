"""Tests the replicated exchange: one device against eight, in-place updates, ids at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from wukong_jax.embeddings.exchange import MESH_AXES, Exchange, ReplicatedExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import Tables, export_tables, init_tables
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.mesh import build_mesh

B = 32


def build_layout(kind: str = "rowwise_adagrad", dtype: str = "float32", rows: int = 40) -> EmbeddingLayout:
    schema = Schema(
        "clicks",
        Source("parquet"),
        labels=(LabelColumn("click"),),
        categorical=(
            CategoricalColumn("user", "identity", rows=rows),
            CategoricalColumn("tags", "identity", rows=7, separator="|", max_length=3),
            CategoricalColumn("hour", "identity", rows=24),
        ),
    )
    l2 = 0.1 if kind == "lazy_adam" else 0.0
    optimizer = RowOptimizer(kind, 0.1, l2=l2)  # type: ignore[arg-type]
    config = EmbeddingsConfig(4, optimizer, dtype=dtype, fields={"hour": FieldOverride(width=2)})  # type: ignore[arg-type]
    return build_embedding_layout(schema, config)


def draw_ids(layout: EmbeddingLayout, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(-1, f.rows, B) for f in layout.fields for _ in range(f.length)], axis=1)
    ids[-4:] = -1  # padding rows
    return ids.astype(np.int32)


def run_steps(layout: EmbeddingLayout, hosts: int, chips: int) -> tuple[dict, list[dict[str, np.ndarray]]]:
    mesh = build_mesh(hosts, chips)
    exchange: Exchange = ReplicatedExchange(layout, mesh)
    by_batch = NamedSharding(mesh, PartitionSpec(MESH_AXES))
    tables = jax.device_put(init_tables(layout, jax.random.key(0)), exchange.table_sharding)
    noises = {s.name: np.random.default_rng(5).standard_normal((B, s.vectors, s.width)) for s in layout.stacks}

    def step(tables: Tables, ids: jax.Array, noise: dict, index: jax.Array) -> tuple[Tables, dict]:
        routed = exchange.route_ids(ids)
        rows = exchange.gather(tables, routed)
        # A loss linear in the values: the gradients are the noise, bit for bit on any mesh.
        loss = lambda rows: sum(jnp.sum(v * noise[k]) for k, v in exchange.collect(rows, routed).items())  # noqa: E731
        gradients = jax.grad(loss)(rows)
        values = exchange.collect(rows, routed)
        key = jax.random.key(7)
        return exchange.apply_row_gradients(
            tables, routed, rows, gradients, RowStep(index, jnp.float32(0.5), key)
        ), values

    step = jax.jit(step, donate_argnums=0)
    collected = []
    for index in range(3):
        ids = jax.device_put(draw_ids(layout, index), by_batch)
        noise = jax.device_put({k: v.astype(np.float32) for k, v in noises.items()}, by_batch)
        tables, values = step(tables, ids, noise, jnp.int32(index))
        collected.append(jax.tree.map(np.array, values))
    copies = [[np.array(s.data) for s in leaf.addressable_shards] for leaf in jax.tree.leaves(tables)]
    for shards in copies:
        for shard in shards[1:]:
            np.testing.assert_array_equal(shards[0], shard)  # every replica made the same update
    return export_tables(layout, tables), collected


@pytest.mark.parametrize(
    ("kind", "dtype", "hosts", "chips"),
    [
        ("rowwise_adagrad", "float32", 2, 4),
        ("rowwise_adagrad", "float32", 4, 2),
        ("lazy_adam", "float32", 2, 4),
        ("adagrad", "bfloat16", 8, 1),
    ],
)
def test_eight_devices_give_one_devices_tables(kind: str, dtype: str, hosts: int, chips: int) -> None:
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, has {jax.device_count()}: set --xla_force_host_platform_device_count=8")
    layout = build_layout(kind, dtype)
    one, one_values = run_steps(layout, 1, 1)
    eight, eight_values = run_steps(layout, hosts, chips)
    jax.tree.map(np.testing.assert_array_equal, one_values[0], eight_values[0])
    if kind == "lazy_adam":  # its longer expression is fused differently: a unit in the last place
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), one, eight)
    else:
        jax.tree.map(np.testing.assert_array_equal, one, eight)


def test_no_table_sized_temporary_or_collective_on_eight_devices() -> None:
    rows = 400_000
    layout = build_layout("adagrad", rows=rows)
    exchange = ReplicatedExchange(layout, build_mesh(2, 4))
    by_batch = NamedSharding(exchange.mesh, PartitionSpec(MESH_AXES))
    tables = jax.device_put(init_tables(layout, jax.random.key(0)), exchange.table_sharding)

    def step(tables: Tables, ids: jax.Array) -> Tables:
        routed = exchange.route_ids(ids)
        gathered = exchange.gather(tables, routed)
        key = jax.random.key(0)
        return exchange.apply_row_gradients(
            tables, routed, gathered, gathered, RowStep(jnp.int32(0), jnp.float32(1), key)
        )

    ids = jax.device_put(draw_ids(layout, 0), by_batch)
    compiled = jax.jit(step, donate_argnums=0).lower(tables, ids).compile()
    memory = compiled.memory_analysis()
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(tables))
    assert memory.alias_size_in_bytes == state_bytes  # per device, and every device holds all
    assert memory.temp_size_in_bytes < rows
    collectives = [line for line in compiled.as_text().splitlines() if " all-gather(" in line or " all-reduce(" in line]
    assert collectives
    assert not [line for line in collectives if str(rows) in line]


def test_unknown_and_absent_ids_read_zeros_and_change_nothing() -> None:
    layout = build_layout("sgd")
    exchange = ReplicatedExchange(layout, build_mesh(1, 1))
    tables = init_tables(layout, jax.random.key(0))
    before = export_tables(layout, tables)
    ids = jnp.array([[-1, -1, 7, -5, -1], [40, 7, 2**31 - 1, -(2**31), 24]], jnp.int32)  # none is in its table
    routed = exchange.route_ids(ids)
    rows = jax.jit(exchange.gather)(tables, routed)
    assert all(not np.asarray(values).any() for values in rows.values())
    gradients = jax.tree.map(jnp.ones_like, rows)
    apply = jax.jit(exchange.apply_row_gradients)
    row_step = RowStep(jnp.int32(0), jnp.float32(1), jax.random.key(0))
    tables = apply(tables, routed, rows, gradients, row_step)
    jax.tree.map(np.testing.assert_array_equal, before, export_tables(layout, tables))


def test_ids_reach_their_own_tables_rows() -> None:
    layout = build_layout()
    exchange = ReplicatedExchange(layout, build_mesh(1, 1))
    tables = init_tables(layout, jax.random.key(0))
    logical = export_tables(layout, tables)
    ids = np.array([[3, 6, -1, 0, 23]], np.int32)
    rows = exchange.gather(tables, exchange.route_ids(jnp.asarray(ids)))
    wide, narrow = (np.asarray(rows[stack.name])[0] for stack in layout.stacks)
    np.testing.assert_array_equal(wide[0], logical["user"]["rows"][3])
    np.testing.assert_array_equal(wide[1], logical["tags"]["rows"][6])
    np.testing.assert_array_equal(wide[2], np.zeros(4))
    np.testing.assert_array_equal(wide[3], logical["tags"]["rows"][0])
    np.testing.assert_array_equal(narrow[0], logical["hour"]["rows"][23])


def test_a_mesh_of_other_axes_is_refused() -> None:
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="the exchange needs"):
        ReplicatedExchange(build_layout(), mesh)
