"""Tests bags laid flat: slots and sums against loops, and every exchange against padded bags."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from wukong_jax.data.blocks.batch import BagShare
from wukong_jax.embeddings.exchange import Exchange, ReplicatedExchange
from wukong_jax.embeddings.flat_bags import (
    SHARES,
    add_as_runs,
    add_in_order,
    choose_share,
    flatten_bags,
    measure_lengths,
)
from wukong_jax.embeddings.flat_exchange import FlatExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, FieldOverride, build_embedding_layout
from wukong_jax.embeddings.placement import TablePlacement, build_placement
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import LogicalTables
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.mesh import MESH_AXES, build_mesh

B, D = 32, 8
MIXED = {
    "user": TablePlacement("table_wise", 3),
    "tags": TablePlacement("column_wise", 4, 4),
    "hour": TablePlacement("replicated"),
    "item": TablePlacement("row_wise", 0, 8),
    "shop": TablePlacement("table_wise", 5),
}


def build_layout(kind: str = "rowwise_adagrad", dtype: str = "float32", l2: float = 0.0) -> EmbeddingLayout:
    """Returns a layout with long bags pooled by sum and mean, one of a shared table, and an unpooled sequence."""

    def bag(name: str, rows: int, length: int) -> CategoricalColumn:
        return CategoricalColumn(name, "identity", rows=rows, separator="|", max_length=length)

    schema = Schema(
        "clicks",
        Source("parquet"),
        labels=(LabelColumn("click"),),
        categorical=(
            CategoricalColumn("user", "identity", rows=41),
            bag("tags", 7, 12),
            CategoricalColumn("hour", "identity", rows=24),
            bag("item", 50, 20),
            bag("shop", 5, 3),
        ),
        sequences=(
            CategoricalColumn("clicked", separator="|", max_length=4, vocabulary_of="item"),
            CategoricalColumn("viewed", separator="|", max_length=20, vocabulary_of="item"),
        ),
    )
    fields = {
        "tags": FieldOverride(pooling="mean", count=2),
        "clicked": FieldOverride(pooling="none"),
    }
    optimizer = RowOptimizer(kind, 0.1, l2=l2)  # type: ignore[arg-type]
    return build_embedding_layout(schema, EmbeddingsConfig(D, optimizer, dtype=dtype, fields=fields))  # type: ignore[arg-type]


def draw_ids(layout: EmbeddingLayout, seed: int) -> np.ndarray:
    """Draws bags with a long tail of lengths, some empty, and with ids out of range and holes."""
    random = np.random.default_rng(seed)
    ids = np.full((B, layout.slots), -1, np.int32)
    for field in layout.fields:
        lengths = np.minimum(random.zipf(1.7, B) - 1, field.length) if field.length > 1 else np.ones(B, int)
        drawn = random.integers(-1, field.rows + 1, (B, field.length))
        ids[:, slice(*field.slots)] = np.where(np.arange(field.length) < lengths[:, None], drawn, -1)
    ids[-4:] = -1  # padding rows
    return ids


def bag_lengths(layout: EmbeddingLayout, ids: np.ndarray) -> dict[str, np.ndarray]:
    fields = [field for field in layout.fields if field.pools]
    lengths = measure_lengths(ids, [field.slots for field in fields])
    return {field.column: lengths[:, index] for index, field in enumerate(fields)}


def test_slots_are_those_up_to_each_bags_last_id() -> None:
    lengths, no_row = (5, 5, 2), 99
    random = np.random.default_rng(0)
    ids = np.where(random.random((6, 12)) < 0.4, random.integers(0, 9, (6, 12)), -1).astype(np.int32)
    ids[2] = -1
    row_ids = np.where((ids >= 0) & (ids < 7), ids + 10, no_row).astype(np.int32)
    expected, measured = [], []
    for row in range(6):
        for column, first in enumerate((0, 5, 10)):
            bag = ids[row, first : first + lengths[column]]
            length = max((place + 1 for place, number in enumerate(bag) if number >= 0), default=0)
            measured.append(length)
            expected += [(row_ids[row, first + place], row * 3 + column) for place in range(length)]
    assert 0 in measured
    assert any(ids[row, 0] < 0 for row in range(6))  # holes
    np.testing.assert_array_equal(measure_lengths(ids, [(0, 5), (5, 10), (10, 12)]).reshape(-1), measured)
    for share in (BagShare(len(expected) / ids.size), BagShare(1.0)):
        places = math.ceil(share.of_slots * ids.size)
        flat = jax.jit(lambda a, b, s=share: flatten_bags(a, b, lengths, s, no_row))(ids, row_ids)
        padded = expected + [(no_row, 18)] * (places - len(expected))
        np.testing.assert_array_equal(np.stack([flat.row_ids, flat.bags], axis=1), padded)


@pytest.mark.parametrize("longest", [8, 9, 200])
def test_sums_of_both_forms_equal_loops(longest: int) -> None:
    random = np.random.default_rng(1)
    lengths = np.minimum(random.zipf(1.3, 50) - 1, longest)
    lengths[7], lengths[11] = longest, 0
    bags = np.concatenate([np.repeat(np.arange(50), lengths), np.full(13, 50)]).astype(np.int32)
    values = random.standard_normal((len(bags), 4)).astype(np.float32)
    expected = np.zeros((50, 4))
    for bag, value in zip(bags, values, strict=True):
        if bag < 50:
            expected[bag] += value
    for add in (lambda v, b: add_in_order(v, b, 50), lambda v, b: add_as_runs(v, b, 50, longest)):
        np.testing.assert_allclose(jax.jit(add)(values, bags), expected, rtol=1e-5, atol=1e-5)


def test_the_smallest_share_that_holds_the_bags_is_chosen() -> None:
    assert [share.of_slots for share in SHARES] == sorted(share.of_slots for share in SHARES)
    for smaller, share in itertools.pairwise(SHARES):
        assert choose_share(share.of_slots) == share
        assert choose_share(smaller.of_slots + 1e-9) == share
    assert choose_share(0.0) == SHARES[0]
    assert choose_share(SHARES[-1].of_slots + 1e-9) is None


def run_steps(exchange: Exchange, layout: EmbeddingLayout, *, flat: bool) -> tuple[LogicalTables, list]:
    by_batch = NamedSharding(exchange.mesh, PartitionSpec(MESH_AXES))
    tables = jax.device_put(exchange.init_tables(jax.random.key(0)), exchange.table_sharding)
    noises = {s.name: np.random.default_rng(5).standard_normal((B, s.vectors, s.width)) for s in layout.stacks}

    def step(tables, ids, noise, index, share):
        routed = exchange.route_ids(ids, share)
        rows = exchange.gather(tables, routed)
        by_row = exchange.keep_by_row(routed)
        collect = lambda rows: exchange.collect(rows, by_row)  # noqa: E731
        gradients = jax.grad(lambda rows: sum(jnp.sum(v * noise[k]) for k, v in collect(rows).items()))(rows)
        row_step = RowStep(index, jnp.float32(0.5), jax.random.key(7))
        return exchange.apply_row_gradients(tables, routed, rows, gradients, row_step), collect(rows)

    step = jax.jit(step, donate_argnums=0, static_argnums=4)
    drawn = [draw_ids(layout, index) for index in range(3)]
    fill = max(exchange.measure_bag_fill(bag_lengths(layout, ids)) for ids in drawn)
    assert 0 < fill < 0.7
    share = BagShare(fill) if flat else None  # exactly as many places as the fullest device needs
    collected = []
    for index, ids in enumerate(drawn):
        noise = jax.device_put({k: v.astype(np.float32) for k, v in noises.items()}, by_batch)
        tables, values = step(tables, jax.device_put(ids, by_batch), noise, jnp.int32(index), share)
        collected.append(jax.tree.map(np.array, values))
    return exchange.export_tables(tables), collected


@pytest.fixture(scope="module")
def padded():
    """Results of padded bags on one device, by optimizer and L2."""
    results = {}

    def run(kind: str = "rowwise_adagrad", l2: float = 0.0):
        if (kind, l2) not in results:
            layout = build_layout(kind, l2=l2)
            results[kind, l2] = run_steps(ReplicatedExchange(layout, build_mesh(1, 1)), layout, flat=False)
        return results[kind, l2]

    return run


def compare(found: tuple, expected: tuple, *, rtol: float = 1e-5) -> None:
    (tables, values), (expected_tables, expected_values) = found, expected
    # Sums over slots, and of squares over ranks, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), values, expected_values)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), tables, expected_tables)


@pytest.mark.parametrize(("hosts", "chips"), [(1, 1), (2, 4)])
def test_replicated_tables_learn_as_with_padded_bags(padded, hosts: int, chips: int) -> None:
    layout = build_layout()
    compare(run_steps(ReplicatedExchange(layout, build_mesh(hosts, chips)), layout, flat=True), padded())


@pytest.mark.parametrize(("kind", "l2"), [("lazy_adam", 0.1), ("adagrad", 0.0)])
def test_every_optimizer_learns_as_with_padded_bags(padded, kind: str, l2: float) -> None:
    layout = build_layout(kind, l2=l2)
    found = run_steps(ReplicatedExchange(layout, build_mesh(1, 1)), layout, flat=True)
    compare(found, padded(kind, l2), rtol=2e-5)  # through Adam's roots


@pytest.mark.parametrize("strategy", ["mixed", "row_wise"])
def test_every_placement_learns_as_with_padded_bags(padded, strategy: str) -> None:
    layout = build_layout()
    shards = {"table_wise": 1, "column_wise": 4, "row_wise": 8}
    names = [table for stack in layout.stacks for table in stack.tables]
    tables = (
        MIXED
        if strategy == "mixed"
        else {
            t: TablePlacement(strategy, i % (8 // shards[strategy]) * shards[strategy], shards[strategy])
            for i, t in enumerate(names)
        }  # type: ignore[arg-type]
    )
    exchange = FlatExchange(layout, build_mesh(2, 4), build_placement(layout, tables, 8))
    compare(run_steps(exchange, layout, flat=True), padded())


def test_memory_follows_the_ids_and_not_the_longest_bag() -> None:
    columns = (CategoricalColumn("tags", "identity", rows=1000, separator="|", max_length=200),)
    schema = Schema("long", Source("parquet"), labels=(LabelColumn("click"),), categorical=columns)
    layout = build_embedding_layout(schema, EmbeddingsConfig(16, RowOptimizer("rowwise_adagrad", 0.1)))
    exchange = ReplicatedExchange(layout, build_mesh(1, 1))

    def step(tables, ids, share):
        routed = exchange.route_ids(ids, share)
        rows = exchange.gather(tables, routed)
        return exchange.apply_row_gradients(
            tables, routed, rows, rows, RowStep(jnp.int32(0), jnp.float32(1), jax.random.key(0))
        )

    step = jax.jit(step, donate_argnums=0, static_argnums=2)
    inputs = jax.eval_shape(exchange.init_tables, jax.random.key(0)), jax.ShapeDtypeStruct((512, 200), jnp.int32)
    padded, flat = (
        step.lower(*inputs, share).compile().memory_analysis().temp_size_in_bytes for share in (None, BagShare(1 / 16))
    )
    assert padded > 512 * 200 * 16 * 4
    assert flat < padded / 4
