"""Tests SPTT: the paper's worked example, bit-equality with the flat exchange, towers' tokens, training of tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dmt.tower_exchange import TowerExchange
from dmt.tower_placement import place_towers
from dmt.towers import TowerLayout, build_tower_layout, stride_towers
from wukong_jax.embeddings.exchange import Exchange, ReplicatedExchange
from wukong_jax.embeddings.flat_exchange import FlatExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.placement import TablePlacement, build_placement
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import describe_arrays
from wukong_jax.errors import UserError
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.mesh import MESH_AXES, build_mesh

MESHES = [(2, 4), (4, 2), (8, 1), (1, 8)]
B, D, ROWS = 16, 8, 400  # ROWS > B * S, so that every slot of a batch can have a row of its own
BY_RANK = PartitionSpec(MESH_AXES)


def build_layout(optimizer: RowOptimizer, mixed: bool = True, columns: int = 11) -> EmbeddingLayout:
    """Returns a layout of eleven columns: a sum bag, a mean bag, one column with two embeddings, the rest plain."""
    extra = {2: {"max_length": 3, "separator": "|"}, 5: {"max_length": 2, "separator": "|"}} if mixed else {}
    schema = Schema(
        "made_up",
        Source("parquet"),
        labels=(LabelColumn("click"),),
        categorical=tuple(
            CategoricalColumn(f"c{i}", "identity", rows=ROWS, **extra.get(i, {}))  # type: ignore[arg-type]
            for i in range(columns)
        ),
    )
    fields = {"c5": FieldOverride(pooling="mean"), "c7": FieldOverride(count=2)} if mixed else {}
    return build_embedding_layout(schema, EmbeddingsConfig(D, optimizer, fields=fields))


def build_towers(layout: EmbeddingLayout, count: int = 8) -> TowerLayout:
    return build_tower_layout(layout.token_columns, stride_towers([f.column for f in layout.fields], count))


def build_tower_exchange(
    layout: EmbeddingLayout, hosts: int, strategy: str, *, compresses: bool = False, dtype: str = "float32"
) -> TowerExchange:
    towers = build_towers(layout)
    tables = place_towers(layout, towers, hosts, 8 // hosts, strategy, {})  # type: ignore[arg-type]
    placement = build_placement(layout, tables, 8)
    return TowerExchange(layout, build_mesh(hosts, 8 // hosts), placement, towers, dtype, compresses=compresses)  # type: ignore[arg-type]


def build_flat(layout: EmbeddingLayout, hosts: int, strategy: str) -> FlatExchange:
    tables = [table for stack in layout.stacks for table in stack.tables]
    shards = {"table_wise": 1, "column_wise": 8, "row_wise": 8}[strategy]
    blocks = 8 // shards
    placed = {table: TablePlacement(strategy, i % blocks * shards, shards) for i, table in enumerate(tables)}  # type: ignore[arg-type]
    return FlatExchange(layout, build_mesh(hosts, 8 // hosts), build_placement(layout, placed, 8))


def draw_ids(layout: EmbeddingLayout, seed: int, distinct: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if distinct:
        ids = np.stack(
            [rng.permutation(ROWS)[: B * layout.slots].reshape(B, -1)[:, 0] for _ in range(layout.slots)], axis=1
        )
        for field in layout.fields:  # slots of one bag read one table
            ids[:, slice(*field.slots)] = rng.permutation(ROWS)[: B * field.length].reshape(B, -1)
        ids[3, ::2] = -1
    else:
        ids = rng.integers(-1, 20, (B, layout.slots))
    return ids.astype(np.int32)


def draw_tables(layout: EmbeddingLayout) -> dict[str, dict[str, np.ndarray]]:
    """Draws initial tables in NumPy, because compiling JAX's generator for every placement would dominate the test."""
    logical = {}
    for stack in layout.stacks:
        for index, (table, rows) in enumerate(zip(stack.tables, stack.table_rows, strict=True)):
            rng = np.random.default_rng(index)
            arrays = {name: np.zeros((rows, *s), d) for name, (s, d) in describe_arrays(stack).items()}
            arrays["rows"][:] = rng.standard_normal((rows, stack.width))
            logical[table] = arrays
    return logical


def run_step(exchange: Exchange, layout: EmbeddingLayout, ids: np.ndarray):
    tables = exchange.import_tables(draw_tables(layout))
    rng = np.random.default_rng(5)
    by_batch = NamedSharding(exchange.mesh, BY_RANK)
    noise = {s.name: rng.standard_normal((B, s.vectors, s.width)).astype(np.float32) for s in layout.stacks}

    @jax.jit
    def step(tables, ids, noise):
        routed = exchange.route_ids(ids)
        rows = exchange.gather(tables, routed)
        values, pull = jax.vjp(lambda rows: exchange.collect(rows, routed), rows)
        (gradients,) = pull(noise)
        row_step = RowStep(jnp.int32(0), jnp.float32(1.0), jax.random.PRNGKey(1))
        return values, exchange.apply_row_gradients(tables, routed, rows, gradients, row_step)

    values, tables = step(tables, jax.device_put(ids, by_batch), jax.device_put(noise, by_batch))
    return jax.tree.map(np.array, values), exchange.export_tables(tables)


def test_figure_7_of_the_paper() -> None:
    layout = build_layout(RowOptimizer("sgd", 1.0), mixed=False, columns=4)
    layout = build_embedding_layout(
        Schema(
            "figure_7",
            Source("parquet"),
            labels=(LabelColumn("click"),),
            categorical=tuple(CategoricalColumn(f"f{i}", "identity", rows=4) for i in range(4)),
        ),
        EmbeddingsConfig(1, RowOptimizer("sgd", 1.0)),
    )
    mesh = build_mesh(2, 2, jax.devices()[:4])
    towers = build_tower_layout(layout.token_columns, [["f0", "f1"], ["f2", "f3"]])
    tables = place_towers(layout, towers, 2, 2, "table_wise", {})
    assert [tables[f"f{i}"].first_rank for i in range(4)] == [0, 1, 2, 3]  # one table a GPU
    exchange = TowerExchange(layout, mesh, build_placement(layout, tables, 4), towers, compresses=False)
    # V[4 * sample + feature], one sample a GPU: row `sample` of table `feature`.
    logical = {f"f{f}": {"rows": np.array([[4.0 * s + f] for s in range(4)], np.float32)} for f in range(4)}
    ids = jax.device_put(np.repeat(np.arange(4, dtype=np.int32)[:, None], 4, axis=1), NamedSharding(mesh, BY_RANK))
    routed = exchange.route_ids(ids)
    rows = exchange.gather(exchange.import_tables(logical), routed)
    # Peer-first routing brings the rows in the order that the paper's permute makes: GPU 0 holds V0 V8 V4 V12.
    (only,) = rows.values()
    np.testing.assert_array_equal(np.asarray(only).reshape(4, 4)[0], [0, 8, 4, 12])
    met = exchange.map_shards(exchange._meet_in_host, (BY_RANK, BY_RANK))(rows, routed)
    (after,) = met.values()
    np.testing.assert_array_equal(np.asarray(after).reshape(4, 4)[0], [0, 1, 8, 9])
    (final,) = exchange.collect(rows, routed).values()
    np.testing.assert_array_equal(np.asarray(final).reshape(4, 4), np.arange(16.0).reshape(4, 4))


@pytest.mark.parametrize("strategy", ["table_wise", "column_wise"])
@pytest.mark.parametrize(("hosts", "chips"), MESHES)
def test_values_and_slot_gradients_equal_the_flat_exchange_bit_for_bit(strategy: str, hosts: int, chips: int) -> None:
    # Every slot has a row of its own and SGD takes the whole gradient off it: tables are equal where gradients are.
    layout = build_layout(RowOptimizer("sgd", 1.0))
    ids = draw_ids(layout, 0, distinct=True)
    values, tables = run_step(build_tower_exchange(layout, hosts, strategy), layout, ids)
    expected, expected_tables = run_step(build_flat(layout, hosts, strategy), layout, ids)
    jax.tree.map(np.testing.assert_array_equal, values, expected)
    jax.tree.map(np.testing.assert_array_equal, tables, expected_tables)


@pytest.mark.parametrize(("hosts", "chips"), MESHES)
def test_row_wise_towers_agree_but_for_the_order_of_sums(hosts: int, chips: int) -> None:
    layout = build_layout(RowOptimizer("sgd", 1.0))
    ids = draw_ids(layout, 0, distinct=True)
    values, tables = run_step(build_tower_exchange(layout, hosts, "row_wise"), layout, ids)
    expected, expected_tables = run_step(build_flat(layout, hosts, "table_wise"), layout, ids)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), values, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), tables, expected_tables)


@pytest.mark.parametrize("strategy", ["table_wise", "column_wise", "row_wise"])
@pytest.mark.parametrize(("hosts", "chips"), [(2, 4), (4, 2)])
@pytest.mark.parametrize("kind", ["rowwise_adagrad", "lazy_adam"])
def test_tables_learn_as_on_one_device(strategy: str, hosts: int, chips: int, kind: str) -> None:
    layout = build_layout(RowOptimizer(kind, 0.1))  # type: ignore[arg-type]
    ids = draw_ids(layout, 1, distinct=False)
    _, tables = run_step(build_tower_exchange(layout, hosts, strategy), layout, ids)
    _, expected = run_step(ReplicatedExchange(layout, build_mesh(1, 1)), layout, ids)
    # Equal rows of a batch add up in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), tables, expected)


@pytest.mark.parametrize("strategy", ["table_wise", "column_wise", "row_wise"])
@pytest.mark.parametrize(("hosts", "chips"), MESHES)
def test_towers_receive_their_own_tokens_and_their_outputs_come_home(strategy: str, hosts: int, chips: int) -> None:
    layout = build_layout(RowOptimizer("sgd", 1.0))
    exchange = build_tower_exchange(layout, hosts, strategy, compresses=True)
    ids = draw_ids(layout, 2, distinct=False)
    placed = jax.device_put(ids, NamedSharding(exchange.mesh, BY_RANK))
    tables = exchange.import_tables(draw_tables(layout))
    seen = {}

    def compress(tokens: jax.Array) -> jax.Array:
        seen["shape"] = tokens.shape
        return jnp.concatenate([tokens, 2 * tokens[:, :, :1]], axis=2)  # one vector more than came in

    @jax.jit
    def send(tables, ids):
        routed = exchange.route_ids(ids)
        return exchange.send_towers(exchange.gather(tables, routed), routed, compress)

    sent = send(tables, placed)
    towers = exchange.towers
    assert seen["shape"] == (8, B, towers.largest, D)
    values, _ = run_step(ReplicatedExchange(layout, build_mesh(1, 1)), layout, ids)
    tokens = np.zeros((B, layout.tokens + 1, D), np.float32)  # the slow twin; the last is padding
    for index, stack in enumerate(layout.stacks):
        vector = 0
        for field in layout.fields_of_stack(index):
            for i in range(field.vectors):
                first = field.tokens[0] + i * field.count
                tokens[:, first : first + field.count] = values[stack.name][:, vector].reshape(B, field.count, D)
                vector += 1
    grouped = tokens[:, towers.padded_tokens(layout.tokens)]
    expected = np.concatenate([grouped, 2 * grouped[:, :, :1]], axis=2)
    compare = (
        np.testing.assert_array_equal
        if strategy != "row_wise"
        else (lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6))
    )
    compare(np.asarray(sent), expected)


def test_bfloat16_travels_rounded() -> None:
    layout = build_layout(RowOptimizer("sgd", 1.0))
    ids = draw_ids(layout, 0, distinct=True)
    values, _ = run_step(build_tower_exchange(layout, 2, "column_wise", dtype="bfloat16"), layout, ids)
    exact, _ = run_step(build_tower_exchange(layout, 2, "column_wise"), layout, ids)
    rounded = jax.tree.map(lambda v: np.array(jnp.asarray(v).astype(jnp.bfloat16).astype(jnp.float32)), exact)
    jax.tree.map(np.testing.assert_array_equal, values, rounded)  # rounding twice is rounding once


def test_a_table_shared_by_towers_of_two_hosts_is_refused() -> None:
    schema = Schema(
        "shared",
        Source("parquet"),
        labels=(LabelColumn("click"),),
        categorical=(
            CategoricalColumn("a", "identity", rows=4),
            CategoricalColumn("b", vocabulary_of="a"),
        ),
    )
    layout = build_embedding_layout(schema, EmbeddingsConfig(4, RowOptimizer("sgd", 1.0)))
    towers = build_tower_layout(layout.token_columns, [["a"], ["b"]])
    place_towers(layout, towers, 1, 2, "auto", {})
    with pytest.raises(UserError, match=r"table 'a': its columns a, b are in towers of 2 hosts"):
        place_towers(layout, towers, 2, 1, "auto", {})


@pytest.mark.parametrize(
    ("hosts", "chips", "overrides", "message"),
    [
        (2, 4, {"x": "row_wise"}, "tables.x: no such table"),
        (2, 4, {"c1": "replicated"}, "hold tables on one host"),
        (2, 3, {"c1": "column_wise"}, "'c1' = 'column_wise': its width 8 does not divide over the 3 chips"),
    ],
)
def test_placements_that_cannot_be_are_refused(hosts: int, chips: int, overrides: dict, message: str) -> None:
    layout = build_layout(RowOptimizer("sgd", 1.0))
    with pytest.raises(UserError, match=message):
        place_towers(layout, build_towers(layout), hosts, chips, "auto", overrides)


def test_a_table_outside_one_host_is_refused() -> None:
    layout = build_layout(RowOptimizer("sgd", 1.0))
    towers = build_towers(layout)
    tables = place_towers(layout, towers, 2, 4, "auto", {}) | {"c3": TablePlacement("column_wise", 0, 8)}
    with pytest.raises(ValueError, match=r"'c3'.* is not inside one host of 4 chips"):
        TowerExchange(layout, build_mesh(2, 4), build_placement(layout, tables, 8), towers, compresses=False)
