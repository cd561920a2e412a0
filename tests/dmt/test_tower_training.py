"""Tests training with towers: equal results on any mesh, weights split over hosts, bytes equal to the closed forms."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.mesh import HOST
from wukong_jax.sharding.traffic.step_traffic import (
    DENSE_GRADIENTS,
    EMBEDDINGS,
    IDS,
    TOWER_GRADIENTS,
    Traffic,
    measure_traffic,
)
from wukong_jax.training.run import Run, build_run

B, D, FIELDS, TOWERS = 64, 8, 16, 8
FLAT, TOWER_EXCHANGE = "wukong_jax.embeddings.flat_exchange:build", "dmt.tower_exchange:build"


def make_schema(vocabulary: int = 50) -> Schema:
    return Schema(
        "made_up",
        Source("csv"),
        labels=(LabelColumn("click"),),
        dense=(DenseColumn("age"), DenseColumn("price")),
        categorical=tuple(CategoricalColumn(f"c{i}", rows=vocabulary) for i in range(FIELDS)),
    )


def make_run(
    hosts: int,
    chips: int,
    *,
    module: dict | None = None,
    exchange: str = TOWER_EXCHANGE,
    towers: int | str = TOWERS,
    dense_optimizer: str = "sgd",  # shows a gradient of the wrong size, where Adam would hide it
    row_optimizer: str = "sgd",
    vocabulary: int = 50,
    **options: object,
) -> Run:
    over = {"top_hidden": (16,), "bottom_hidden": (8,)}
    model = {
        "factory": "dmt.model:build",
        "options": {
            "towers": towers,
            "module": module or {"kind": "pass_through"},
            "over": "wukong_jax.models.dlrm:build",
            "over_options": over,
        },
    }
    config = build_run_config(
        {
            "name": "towers",
            "data": {"factory": "blocks", "path": "unused"},
            "embeddings": {"width": D, "optimizer": {"kind": row_optimizer, "learning_rate": 0.05}},
            "model": model,
            "exchange": {"factory": exchange, "options": options},
            "optimizer": {"name": dense_optimizer, "learning_rate": 0.1},
            "training": {"batch_size": B, "evaluation_batch_size": B, "steps": 10},
            "mesh": {"hosts": hosts, "chips": chips},
        }
    )
    return build_run(config, make_schema(vocabulary))


def make_batch(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    zeros = np.zeros(B, np.int32)
    return Batch(
        dense=random.normal(size=(B, 2)).astype(np.float32),
        ids=random.integers(-1, 50, (B, FIELDS)).astype(np.int32),
        labels=random.integers(0, 2, (B, 1)).astype(np.float32),
        label_mask=np.ones((B, 1), np.float32),
        domain=zeros,
        group=zeros,
        timestamp=zeros,
        weight=np.ones(B, np.float32),
        extras={},
    )


def take_steps(run: Run, steps: int = 3):
    step, state, losses = run.jit_train_step(), run.init_state(), []
    for seed in range(steps):
        state, metrics = step(state, put_batch(make_batch(seed), run.mesh))
        losses.append(float(metrics["loss_sum"]))
    tables = run.exchange.export_tables(state.tables)
    return losses, jax.device_get(state.params), {name: arrays["rows"] for name, arrays in tables.items()}


MODULE = {"kind": "dlrm", "compression": 2}


@pytest.fixture(scope="module")
def one_device():
    return take_steps(make_run(1, 1, module=MODULE, exchange=FLAT))


@pytest.mark.parametrize(
    ("hosts", "chips", "exchange"),
    [(1, 1, TOWER_EXCHANGE), (2, 4, TOWER_EXCHANGE), (8, 1, TOWER_EXCHANGE), (2, 4, FLAT)],
)
def test_towers_train_alike_on_every_mesh_and_exchange(one_device, hosts: int, chips: int, exchange: str) -> None:
    # The very weights: a model trained on eight hosts runs on one. Sums over devices add in another order: float32
    # rounding, over three steps.
    result = take_steps(make_run(hosts, chips, module=MODULE, exchange=exchange))
    chex.assert_trees_all_close(result, one_device, rtol=1e-4, atol=1e-6)


def test_tower_weights_and_their_moments_live_on_their_hosts() -> None:
    run = make_run(4, 2, module=MODULE, dense_optimizer="adam")
    state = run.init_state()
    weights = jax.tree.leaves(state.params["model"]["towers"])
    assert weights
    moments = [
        m for name in ("mu", "nu") for m in jax.tree.leaves(getattr(state.optimizer_state[0], name)["model"]["towers"])
    ]
    for array in (*weights, *moments):
        assert array.sharding.spec[0] == HOST
        assert array.addressable_shards[0].data.shape[0] == TOWERS // 4
    for array in jax.tree.leaves(state.params["model"]["over"]):
        assert array.sharding.is_fully_replicated


@pytest.mark.parametrize("exchange", [FLAT, TOWER_EXCHANGE])
def test_the_whole_step_makes_no_temporary_of_a_tables_size(exchange: str) -> None:
    memory = {}
    for rows in (20_000, 200_000):
        options = {"placement": "row_wise"} if exchange == FLAT else {}
        settings = {"row_optimizer": "rowwise_adagrad", "vocabulary": rows, "module": MODULE, "exchange": exchange}
        run = make_run(2, 4, **settings, **options)
        memory[rows] = run.jit_train_step().lower(*run.abstract_inputs()).compile().memory_analysis()
    small, large = memory[20_000], memory[200_000]
    assert abs(large.temp_size_in_bytes - small.temp_size_in_bytes) < 4096  # alignment of buffers
    grown = FIELDS * 180_000 * D * 4 // 8  # a device's share of the rows, updated in place
    assert large.alias_size_in_bytes - small.alias_size_in_bytes >= grown


def compile_traffic(run: Run) -> Traffic:
    text = run.jit_train_step().lower(*run.abstract_inputs()).compile().as_text()
    return measure_traffic(text, *run.mesh.devices.shape)


@pytest.mark.parametrize(("hosts", "chips"), [(2, 4), (4, 2), (8, 1)])
def test_bytes_follow_the_closed_forms(hosts: int, chips: int) -> None:
    """Dossier 1.4: E (H-1)/H flat and SPTT, E (H-1)/(H CR) with tower modules, forward and backward each."""
    flat = compile_traffic(make_run(hosts, chips, exchange=FLAT, placement="table_wise"))
    sptt = compile_traffic(make_run(hosts, chips, placement="column_wise"))
    bytes_of_batch = B * FIELDS * D * 4
    for traffic in (flat, sptt):
        for direction in ("forward", "backward"):
            crossed = traffic.total(axis="host", purpose=EMBEDDINGS, direction=direction)
            assert crossed == bytes_of_batch * (hosts - 1) / hosts
    for direction in ("forward", "backward"):
        inside = flat.total(axis="chip", purpose=EMBEDDINGS, direction=direction)
        assert inside == bytes_of_batch * (chips - 1) / (hosts * chips)
        inside = sptt.total(axis="chip", purpose=EMBEDDINGS, direction=direction)
        assert inside == bytes_of_batch * (chips - 1) / chips
    assert sptt.total(axis="host") <= flat.total(axis="host")
    for compression in (2, 4, 8):
        module = {"kind": "dlrm", "compression": compression}
        towers = compile_traffic(make_run(hosts, chips, module=module, placement="column_wise"))
        crossed = towers.total(axis="host", purpose=EMBEDDINGS)
        assert crossed * compression == sptt.total(axis="host", purpose=EMBEDDINGS)
        # Tower weights are added up inside the host only.
        assert towers.total(axis="host", purpose=TOWER_GRADIENTS) == 0
        assert (towers.total(axis="chip", purpose=TOWER_GRADIENTS) > 0) == (chips > 1)
        assert towers.total(axis="host", purpose=DENSE_GRADIENTS) > 0
        assert towers.total(axis="host", purpose=IDS) == B * FIELDS * 4 * (hosts - 1) / hosts


def test_unequal_towers_train_and_drop_their_padding(one_device) -> None:
    # 16 columns in 5 towers, the largest of 4: four places are padding.
    one = take_steps(make_run(1, 1, module=MODULE, exchange=FLAT, towers=5))
    many = take_steps(make_run(1, 8, module=MODULE, towers=5))
    chex.assert_trees_all_close(many, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("hosts", "settings", "message"),
    [
        (8, {"towers": 4}, "config.mesh.hosts = 8: does not divide the model's 4 towers"),
        (2, {"towers": 17}, "at most the 16 columns"),
        (2, {"towers": "missing.json"}, "missing.json"),
        (2, {"memory_gib": 1e-6}, "memory_gib = 9.99e-07: every chip allocates"),
        (2, {"memory_gib": float("inf")}, "memory_gib = inf"),
        (2, {"placement": "replicated"}, "config.exchange.options.placement"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_array_is_made(hosts: int, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_run(hosts, 8 // hosts, **settings)


def test_tower_exchange_refuses_a_model_without_towers() -> None:
    run = make_run(1, 1)
    config = dataclasses.replace(
        run.config,
        model=build_run_config(
            {
                "name": "plain",
                "data": {"factory": "blocks", "path": "unused"},
                "embeddings": {"width": D, "optimizer": {"kind": "sgd", "learning_rate": 0.05}},
                "training": {"batch_size": B, "steps": 1},
            }
        ).model,
    )
    with pytest.raises(UserError, match=r"needs a model with towers.*dmt.model:build"):
        build_run(config, make_schema())


@pytest.mark.parametrize(("hosts", "words"), [(1, "one host, so nothing is sent to others"), (2, "sent between hosts")])
def test_the_description_says_what_is_sent_between_hosts(hosts, words):
    text = make_run(hosts, 2).exchange.describe()
    assert words in text
    assert ("between hosts" in text) == (hosts > 1)
