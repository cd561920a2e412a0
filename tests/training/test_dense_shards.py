"""Tests that split dense weights (FSDP), rematerialised layers and sums in bfloat16 leave the step what it is."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tests.training.sharded_steps import (
    MESH_OF_EIGHT,
    MODELS,
    check_steps,
    count_device_bytes,
    make_run,
    take_steps,
    take_steps_on_one_device,
)
from wukong_jax.errors import UserError
from wukong_jax.sharding.axis_rules import FullSharding, shard_by_rules
from wukong_jax.sharding.mesh import CHIP, HOST, build_mesh
from wukong_jax.sharding.traffic.step_traffic import DENSE_GRADIENTS, DENSE_WEIGHTS, measure_traffic
from wukong_jax.training.dense_shards import DenseShards

ADAM = {"factory": "adam", "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("name", "fsdp", "remat", "microbatch"),
    [
        ("wukong", "chips", False, 2),
        ("wukong", "all", True, 2),
        ("wukong", "none", True, 0),
        ("dcnv2", "chips", True, 0),
        ("dcnv2", "all", False, 2),
    ],
)
def test_steps_on_eight_devices_are_those_on_one(name, fsdp, remat, microbatch):
    check_steps(name, fsdp, remat, microbatch)


def make_shapes(*shapes):
    return {f"w{index}": jax.ShapeDtypeStruct(shape, jnp.float32) for index, shape in enumerate(shapes)}


def test_large_weights_are_split_along_their_longest_axis_that_divides():
    mesh = build_mesh(2, 4)
    weights = make_shapes((16, 8), (8, 16), (16, 16), (12, 4), (7, 9), (4, 3), (4, 6, 10))
    rules = ((r"w6", PartitionSpec(HOST)),)
    found = {
        axes: [tuple(s.spec) for s in shard_by_rules(mesh, rules, weights, FullSharding(axes, 16)).values()]
        for axes in ((CHIP,), (HOST, CHIP))
    }
    both = (HOST, CHIP)
    assert found[CHIP,] == [(CHIP, None), (None, CHIP), (None, CHIP), (CHIP, None), (), (), (HOST,)]
    assert found[both] == [(both, None), (None, both), (None, both), (), (), (), (HOST,)]


@pytest.mark.parametrize("fsdp", ["chips", "all"])
def test_a_device_holds_its_share_of_weights_and_moments(fsdp):
    run = make_run(MODELS["wukong"], MESH_OF_EIGHT | {"fsdp": fsdp}, optimizer=ADAM)
    state, sharding = run.abstract_state(), run.state_sharding
    parts = {"chips": 4, "all": 8}[fsdp]
    small = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params) if leaf.size < 64)
    total = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
    assert small < total / 10
    assert total / parts <= count_device_bytes(state.params, sharding.params) <= total / parts + 2 * small
    held = count_device_bytes(state.optimizer_state, sharding.optimizer_state)
    assert 2 * total / parts <= held <= 2 * (total / parts + 2 * small) + 8
    # what the compiled program takes and gives back in place
    memory = run.jit_train_step().lower(*run.abstract_inputs()).compile().memory_analysis()
    assert memory.alias_size_in_bytes <= 3 * (total / parts + 2 * small) + 64 + 8 * 40 * 8 * 4


@pytest.mark.parametrize("remat", [False, True])
def test_weights_are_gathered_again_in_the_backward_pass(remat):
    # XLA:CPU joins the two, as its memory is no concern: look at the program before it is compiled. What accelerators
    # make of it is in tests/clusters/test_large_dense_models.py.
    options = {"cross_layers": 1, "deep_hidden": (128,) * 4, "bottom_hidden": (8,)}
    model = {"factory": "wukong_jax.models.dcnv2:build", "options": options}
    run = make_run(model, MESH_OF_EIGHT | {"fsdp": "all", "fsdp_min_size": 128 * 128}, training={"remat": remat})
    text = run.jit_train_step().lower(*run.abstract_inputs()).as_text()
    assert text.count("stablehlo.reduce_scatter") == 3  # kernels of 128 x 128
    assert text.count("stablehlo.all_gather") == 2 * 3
    assert text.count("stablehlo.optimization_barrier") >= (3 if remat else 1)


@pytest.mark.parametrize("microbatch", [0, 2])
def test_gradients_of_split_weights_are_reduce_scattered(microbatch):
    run = make_run(MODELS["dcnv2"], MESH_OF_EIGHT | {"fsdp": "all"}, training={"microbatch": microbatch})
    text = run.jit_train_step().lower(*run.abstract_inputs()).compile().as_text()
    traffic, parts = measure_traffic(text, 2, 4), run.count_parts()
    assert parts == (4 if microbatch else 1)
    sizes = [leaf.size * 4 for leaf in jax.tree.leaves(run.abstract_state().params)]
    # A ring over 8 devices: each sends 7/8 of the whole array.
    once = 7 * parts * sum(size for size in sizes if size >= 256)
    assert traffic.total(purpose=DENSE_GRADIENTS, kind="reduce-scatter") == once
    assert traffic.total(purpose=DENSE_WEIGHTS) == traffic.total(purpose=DENSE_WEIGHTS, kind="all-gather")
    assert once <= traffic.total(purpose=DENSE_WEIGHTS) <= 2 * once
    # only small weights are added up whole, and once a step
    small = 2 * 7 * sum(size for size in sizes if size < 256)
    assert traffic.total(purpose=DENSE_GRADIENTS, kind="all-reduce") == small


def test_sums_in_bfloat16_round_what_is_sent():
    mesh = build_mesh(2, 4)
    specs = {"whole": PartitionSpec(), "split": PartitionSpec(None, CHIP)}
    sums = {}
    random = np.random.default_rng(0)
    gradients = {"whole": random.normal(size=(8, 5, 3)), "split": random.normal(size=(2, 3, 8))}
    gradients = {name: values.astype(np.float32) for name, values in gradients.items()}
    for dtype in ("float32", "bfloat16"):
        shards = DenseShards(mesh, specs, (), reduce_dtype=dtype)
        reduce = jax.jit(lambda tree, shards=shards: shards.reduce(shards.place(tree)))
        sums[dtype] = reduce(gradients)
        # XLA:CPU widens sums in bfloat16, so look at the program before it is compiled
        sent = re.findall(r"\"?stablehlo\.all_reduce.*?-> tensor<[^>]*x(\w+)>", reduce.lower(gradients).as_text(), re.S)
        assert set(sent) == {"f32" if dtype == "float32" else "bf16"}
    exact = {name: values.astype(np.float64).sum(axis=0) for name, values in gradients.items()}
    chex.assert_trees_all_close(sums["float32"], exact, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(sums["bfloat16"], exact, rtol=2**-7, atol=8 * 4 * 2**-9)  # 8 terms of at most 4
    assert not np.array_equal(sums["bfloat16"]["whole"], sums["float32"]["whole"])


@pytest.mark.parametrize(("fsdp", "compute_dtype"), [("none", "float32"), ("chips", "bfloat16"), ("all", "bfloat16")])
def test_bfloat16_stays_near_float32(fsdp, compute_dtype):
    mesh = MESH_OF_EIGHT | {"fsdp": fsdp, "reduce_dtype": "bfloat16"}
    run = make_run(MODELS["wukong"], mesh, training={"compute_dtype": compute_dtype, "microbatch": 2})
    assert {leaf.dtype for leaf in jax.tree.leaves(run.abstract_state().params)} == {jnp.dtype("float32")}
    exact, one = (take_steps_on_one_device("wukong", compute_dtype=dtype)[1] for dtype in ("float32", compute_dtype))
    found, before = take_steps(run)[1], jax.device_get(run.init_state().params)

    def measure(params, others):
        return optax.global_norm(jax.tree.map(np.subtract, params, others))

    # Sums in bfloat16 keep eight binary digits; products in bfloat16 err as they do on one device.
    assert measure(found, exact) < 2**-6 * measure(exact, before) + 1.5 * measure(one, exact)
    assert measure(found, exact) > 2**-14 * measure(exact, before)


@pytest.mark.parametrize(
    ("mesh", "training", "message"),
    [
        ({"hosts": 1, "chips": 1, "fsdp": "all"}, {}, "fsdp = 'all': the mesh has 1 device"),
        ({"hosts": 8, "chips": 1, "fsdp": "chips"}, {}, "fsdp = 'chips': a host has 1 chip.*take 'all'"),
        (MESH_OF_EIGHT | {"fsdp": "all", "fsdp_min_size": 10**6}, {}, "no dense weight has fsdp_min_size = 1000000"),
        (MESH_OF_EIGHT | {"fsdp_min_size": 7}, {}, "fsdp_min_size = 7: has no effect without fsdp"),
        ({"hosts": 1, "chips": 1, "reduce_dtype": "bfloat16"}, {}, "reduce_dtype = 'bfloat16': the mesh has 1 device"),
        ({"hosts": 1, "chips": 1}, {"remat": True}, "remat = True: .*fm:build' has no layers"),
    ],
)
def test_options_without_effect_are_refused(mesh, training, message):
    with pytest.raises(UserError, match=message) as refused:
        make_run({"factory": "wukong_jax.models.fm:build", "options": {}}, mesh, training=training)
    assert "\n" not in str(refused.value)


def test_a_run_that_scores_on_one_device_ignores_the_split():
    run = make_run(MODELS["wukong"], {"hosts": 1, "chips": 1, "fsdp": "all"}, trains=False)
    assert run.dense_shards is None
    assert run.describe_weights() == ""


class Stack(nn.Module):
    """Four dense layers whose kernels `nn.vmap` stacks on a leading axis."""

    @nn.compact
    def __call__(self, values):
        layers = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=4)
        return layers(8, name="layers")(values).sum(axis=0)


def test_weights_of_stacked_layers_are_gathered_too():
    mesh, network = build_mesh(2, 4), Stack()
    values = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    variables = network.init(jax.random.key(0), values)
    kernel = variables["params"]["layers"]["kernel"]
    assert kernel.shape == (4, 8, 8)
    specs = {"layers": {"kernel": PartitionSpec(None, None, CHIP), "bias": PartitionSpec()}}
    shards = DenseShards(mesh, specs, ())

    def loss(params):
        with shards.running(network, {"params": params, "statistics": {}}, True, None) as running:
            by_rank = PartitionSpec((HOST, CHIP))
            made = running.run(lambda bound, rows: bound(rows), (values,), (by_rank,), by_rank, False)
        return jnp.square(made).sum()

    found = jax.jit(lambda params: shards.reduce(jax.grad(loss)(shards.spread(params))))(variables["params"])
    expected = jax.grad(lambda params: jnp.square(network.apply({"params": params}, values)).sum())(variables["params"])
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
