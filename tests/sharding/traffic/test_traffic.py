"""Tests counted bytes and messages of small compiled programs against closed forms, on every mesh shape."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from wukong_jax.sharding.mesh import CHIP, HOST, build_mesh
from wukong_jax.sharding.traffic.link_transfers import compute_transfers
from wukong_jax.sharding.traffic.step_traffic import (
    BACKWARD,
    DENSE_GRADIENTS,
    EMBEDDINGS,
    FORWARD,
    IDS,
    OTHER,
    ROW_OPTIMIZER,
    TOWER_GRADIENTS,
    UPDATE,
    Traffic,
    classify,
    format_traffic,
    measure_traffic,
)

BOTH = (HOST, CHIP)
MESHES = [(2, 4), (4, 2), (8, 1), (1, 8)]
ROWS, WIDTH = 8, 16  # of one device, a sample being a row
SAMPLE_BYTES = WIDTH * 4


def compile_text(
    hosts: int, chips: int, local: Callable[[jax.Array], jax.Array], dtype=jnp.float32, differentiate: bool = False
) -> str:
    spec = PartitionSpec(BOTH)
    mesh = build_mesh(hosts, chips)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    step = jax.grad(lambda x: jnp.sum(jnp.sin(sharded(x)))) if differentiate else sharded
    return jax.jit(step).lower(jax.ShapeDtypeStruct((ROWS * 8, WIDTH), dtype)).compile().as_text()


def measure(hosts: int, chips: int, local: Callable[[jax.Array], jax.Array], **settings) -> Traffic:
    return measure_traffic(compile_text(hosts, chips, local, **settings), hosts, chips)


def flat(x: jax.Array) -> jax.Array:
    return lax.all_to_all(x, BOTH, 0, 0, tiled=True)


def two_level(x: jax.Array) -> jax.Array:
    inside = lax.all_to_all(x, CHIP, 0, 0, tiled=True)
    return lax.all_to_all(inside, HOST, 0, 0, tiled=True)


def per_sample(traffic: Traffic, axis: str) -> float:
    return traffic.total(axis=axis) / (ROWS * 8)


@pytest.mark.parametrize(("hosts", "chips"), MESHES)
def test_flat_exchange_equals_its_closed_form(hosts, chips):
    traffic = measure(hosts, chips, flat)
    assert per_sample(traffic, HOST) == SAMPLE_BYTES * (hosts - 1) / hosts
    assert per_sample(traffic, CHIP) == SAMPLE_BYTES * (chips - 1) / (hosts * chips)
    assert traffic.total(axis=HOST, unit="messages", over="device") == 8 - chips
    assert traffic.total(axis=CHIP, unit="messages", over="device") == chips - 1


@pytest.mark.parametrize(("hosts", "chips"), MESHES)
def test_two_level_exchange_equals_its_closed_form(hosts, chips):
    traffic = measure(hosts, chips, two_level)
    assert per_sample(traffic, HOST) == SAMPLE_BYTES * (hosts - 1) / hosts
    assert per_sample(traffic, CHIP) == SAMPLE_BYTES * (chips - 1) / chips
    assert traffic.total(axis=HOST, unit="messages", over="device") == hosts - 1


@pytest.mark.parametrize(("hosts", "chips"), MESHES)
@pytest.mark.parametrize("axis", [HOST, CHIP, BOTH])
@pytest.mark.parametrize("kind", ["all-gather", "reduce-scatter", "all-reduce"])
def test_rings_equal_a_walk_around_them(hosts, chips, axis, kind):
    local = {
        "all-gather": lambda x: lax.all_gather(x, axis, tiled=True),
        "reduce-scatter": lambda x: lax.psum_scatter(x, axis, tiled=True),
        "all-reduce": lambda x: lax.psum(x, axis),
    }[kind]
    traffic = measure(hosts, chips, local)
    sent = {HOST: 0.0, CHIP: 0.0}
    grid = np.arange(8).reshape(hosts, chips)
    rings = {HOST: grid.T, CHIP: grid, BOTH: grid.reshape(1, 8)}[axis]
    array = ROWS * SAMPLE_BYTES
    for ring in rings.tolist():
        size = len(ring)
        passes = {"all-gather": size - 1, "reduce-scatter": (size - 1) / size, "all-reduce": 2 * (size - 1) / size}
        for place in range(size):
            source, target = ring[place], ring[(place + 1) % size]
            link = CHIP if source // chips == target // chips else HOST
            sent[link] += passes[kind] * array if size > 1 else 0
    assert traffic.total(axis=HOST) == pytest.approx(sent[HOST], rel=1e-12)  # sums of thirds and sevenths in float64
    assert traffic.total(axis=CHIP) == pytest.approx(sent[CHIP], rel=1e-12)


def test_sums_over_mesh_host_and_device_agree_where_all_send_alike():
    traffic = measure(2, 4, flat)
    for unit in ("bytes", "messages"):
        whole = traffic.total(unit=unit)
        assert traffic.total(unit=unit, over="host") * 2 == traffic.total(unit=unit, over="device") * 8 == whole


def test_ring_over_both_axes_loads_the_last_chip_of_each_host():
    traffic = measure(2, 4, lambda x: lax.psum(x, BOTH))
    one = 2 * 7 / 8 * ROWS * SAMPLE_BYTES
    assert traffic.total(axis=HOST, over="device") == traffic.total(axis=HOST, over="host") == one
    assert traffic.total(axis=HOST) == 2 * one


@pytest.mark.parametrize("loop", ["fori", "scan"])
def test_loops_multiply(loop):
    def local(x: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return lax.psum(carry, HOST) * 0.5, None

        if loop == "scan":
            return lax.scan(body, x, None, length=5)[0]
        return lax.fori_loop(0, 5, lambda _, carry: body(carry, None)[0], x)

    traffic = measure(2, 4, local)
    assert [row.times for row in traffic.collectives] == [5]
    assert traffic.total() == 5 * 8 * ROWS * SAMPLE_BYTES


def test_loop_of_unknown_length_is_refused():
    local = functools.partial(lax.while_loop, lambda x: x[0, 0] < 9, lambda x: lax.psum(x, HOST) + 1)
    with pytest.raises(ValueError, match="no trip count"):
        measure(2, 4, local)


def test_bfloat16_counts_as_what_the_program_sends():
    """XLA:CPU turns bfloat16 collectives into float32; the same bits as uint16 stay two bytes."""

    def as_bits(x: jax.Array) -> jax.Array:
        return lax.bitcast_convert_type(flat(lax.bitcast_convert_type(x, jnp.uint16)), jnp.bfloat16)

    (plain,) = measure(2, 4, flat, dtype=jnp.bfloat16).collectives
    (bits,) = measure(2, 4, as_bits, dtype=jnp.bfloat16).collectives
    assert bits.dtype == "u16"
    assert bits.payload_bytes == ROWS * WIDTH * 2
    assert plain.payload_bytes == ROWS * WIDTH * {"bf16": 2, "f32": 4}[plain.dtype]


def test_backward_of_an_exchange_is_told_from_its_forward():
    def local(x: jax.Array) -> jax.Array:
        with jax.named_scope("collect"):
            return jnp.sin(two_level(x))

    traffic = measure(2, 4, local, differentiate=True)
    for axis in (HOST, CHIP):
        forward = traffic.total(axis=axis, purpose=EMBEDDINGS, direction=FORWARD)
        assert forward == traffic.total(axis=axis, purpose=EMBEDDINGS, direction=BACKWARD) > 0
        assert traffic.total(axis=axis) == 2 * forward


def compile_towers(hosts: int, chips: int) -> str:
    """Compiles a step with ids, an exchange, weights per host, shared weights, and a row optimizer."""
    mesh, whole, by_rank = build_mesh(hosts, chips), PartitionSpec(), PartitionSpec(BOTH)
    weights_specs = {"tower": PartitionSpec(HOST), "dense": whole}

    def loss(weights: dict[str, jax.Array], rows: jax.Array) -> jax.Array:
        with jax.named_scope("collect"):
            values = lax.all_to_all(rows, CHIP, 0, 0, tiled=True)
        with jax.named_scope("towers"):
            values = jnp.tanh(values @ weights["tower"][0])
            with jax.named_scope("peer_exchange"):
                values = lax.all_to_all(values, HOST, 0, 0, tiled=True)
        return lax.psum(jnp.sum((values @ weights["dense"]) ** 2), BOTH)

    def step(weights: dict[str, jax.Array], rows: jax.Array, ids: jax.Array):
        with jax.named_scope("route_ids"):
            routed = jax.shard_map(flat, mesh=mesh, in_specs=by_rank, out_specs=by_rank)(ids)
        whole_loss = jax.shard_map(loss, mesh=mesh, in_specs=(weights_specs, by_rank), out_specs=whole)
        value, (gradients, row_gradients) = jax.value_and_grad(whole_loss, argnums=(0, 1))(weights, rows)
        with jax.named_scope("row_optimizer"):
            gather = functools.partial(lax.all_gather, axis_name=BOTH, tiled=True)
            moved = jax.shard_map(gather, mesh=mesh, in_specs=by_rank, out_specs=whole, check_vma=False)(row_gradients)
        return routed, value, gradients, moved

    arrays = (
        {"tower": jnp.ones((hosts, WIDTH, WIDTH)), "dense": jnp.ones((WIDTH, 4))},
        jnp.ones((ROWS * 8, WIDTH)),
        jnp.ones((ROWS * 8, 1), jnp.int32),
    )
    return jax.jit(step).lower(*arrays).compile().as_text()


@pytest.mark.parametrize(("hosts", "chips"), [(2, 4), (4, 2)])
def test_purposes_of_a_step_are_told_apart(hosts, chips):
    traffic = measure_traffic(compile_towers(hosts, chips), hosts, chips)
    rows = ROWS * 8
    exchanged = rows * SAMPLE_BYTES
    for direction in (FORWARD, BACKWARD):
        embeddings = functools.partial(traffic.total, purpose=EMBEDDINGS, direction=direction)
        assert embeddings(axis=CHIP) == exchanged * (chips - 1) / chips
        assert embeddings(axis=HOST) == exchanged * (hosts - 1) / hosts
    assert traffic.total(axis=HOST, purpose=IDS) == rows * 4 * (hosts - 1) / hosts
    assert traffic.total(axis=HOST, purpose=TOWER_GRADIENTS) == 0
    tower_bytes = WIDTH * WIDTH * 4
    assert traffic.total(axis=CHIP, purpose=TOWER_GRADIENTS) == hosts * 2 * (chips - 1) * tower_bytes
    assert traffic.total(purpose=DENSE_GRADIENTS) == 2 * 7 * WIDTH * 4 * 4
    assert traffic.total(purpose=OTHER) == 2 * 7 * 4  # the loss
    assert traffic.total(purpose=ROW_OPTIMIZER, direction=UPDATE) == 7 * exchanged
    assert traffic.total(direction=UPDATE) == 7 * exchanged


@pytest.mark.parametrize(
    ("kind", "op_names", "expected"),
    [
        ("all-to-all", ["jit(step)/route_ids/shard_map/all_to_all"], (IDS, FORWARD)),
        ("all-to-all", ["jit(step)/jvp(collect)/shard_map/all_to_all"], (EMBEDDINGS, FORWARD)),
        ("all-to-all", ["jit(step)/transpose(jvp(collect))/shard_map/all_to_all"], (EMBEDDINGS, BACKWARD)),
        (
            "all-to-all",
            ["jit(f)/transpose(jvp())/towers/dot", "jit(f)/transpose(jvp())/collect/x"],
            (EMBEDDINGS, BACKWARD),
        ),
        ("all-reduce", ["jit(f)/transpose(jvp(collect))/towers/psum"], (TOWER_GRADIENTS, BACKWARD)),
        ("all-reduce", ["jit(f)/jvp(towers)/psum"], (OTHER, FORWARD)),
        ("all-reduce", ["jit(f)/transpose(jvp(Network))/towers_of_babel/dot_general"], (DENSE_GRADIENTS, BACKWARD)),
        ("all-reduce", ["jit(f)/row_optimizer/psum"], (ROW_OPTIMIZER, UPDATE)),
        ("all-reduce", ["jit(f)/jvp()/reduce_sum"], (OTHER, FORWARD)),
        ("all-reduce", [], (OTHER, FORWARD)),
    ],
)
def test_names_say_what_for(kind, op_names, expected):
    assert classify(kind, op_names) == expected


def test_rows_sum_to_the_totals_and_the_table_shows_them():
    traffic = measure(2, 4, two_level)
    rows = traffic.to_rows()
    assert sum(row["host_bytes"] for row in rows) == traffic.total(axis=HOST)
    assert sum(row["chip_messages"] for row in rows) == traffic.total(axis=CHIP, unit="messages")
    table = format_traffic(traffic)
    assert "2 hosts x 4 chips" in table
    assert f"{traffic.total(axis=HOST):,.0f} B" in table


def test_unknown_words_are_refused():
    traffic = measure(2, 4, flat)
    for word in ("axis", "purpose", "direction", "unit", "over"):
        with pytest.raises(ValueError, match="'wrong' is none of"):
            traffic.total(**{word: "wrong"})
    with pytest.raises(ValueError, match="transport 'smoke'"):
        compute_transfers("all-reduce", (0, 1), 8, 4, "smoke")
    with pytest.raises(ValueError, match="power"):
        compute_transfers("reduce-scatter", (0, 1, 2), 24, 4, "gloo")


@pytest.mark.parametrize(("elements", "group_size"), [(1, 4), (1000, 3), (4096, 8), (3 << 20, 5)])
def test_gloo_all_reduce_equals_its_loop(elements, group_size):
    """The segments that gloo/allreduce.cc sends, one by one."""
    total, element = 4 * elements, 4
    segments = max(math.ceil(total / 2**20), 2 * group_size)
    segments = math.ceil(segments / group_size) * group_size
    each = segments // group_size
    size = math.ceil(math.ceil(total / segments) / element) * element
    expected = np.zeros(group_size)
    for rank in range(group_size):
        for first in (rank + 1, rank):
            for i in range(segments - each):
                offset = (first * each + i) * size % (segments * size)
                expected[rank] += max(min(size, total - offset), 0)
    sent = compute_transfers("all-reduce", tuple(range(group_size)), total, element, "gloo")
    np.testing.assert_array_equal(sent.bytes, expected)
    np.testing.assert_array_equal(sent.target, (np.arange(group_size) - 1) % group_size)


def test_gloo_reduce_scatter_halves_and_then_mends_the_order():
    sent = compute_transfers("reduce-scatter", (0, 1, 2, 3), 400, 4, "gloo")
    pairs = sorted(zip(sent.source.tolist(), sent.target.tolist(), sent.bytes.tolist(), strict=True))
    near = [(rank, rank ^ 1, 200.0) for rank in range(4)]
    far = [(rank, rank ^ 2, 100.0) for rank in range(4)]
    assert pairs == sorted([*near, *far, (1, 2, 100.0), (2, 1, 100.0)])


def test_broadcast_is_a_chain_and_permute_its_pairs():
    chain = compute_transfers("collective-broadcast", (2, 0, 1), 12, 4, "ring")
    assert (chain.source.tolist(), chain.target.tolist(), chain.bytes.tolist()) == ([2, 0], [0, 1], [12, 12])
    assert compute_transfers("collective-permute", (3, 3), 12, 4, "ring").source.size == 0
    assert compute_transfers("collective-permute", (3, 1), 12, 4, "ring").bytes.tolist() == [12]
