"""Tests that a step in microbatches is the step on the whole batch: losses, weights, tables, dropout and statistics."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.layers.batch_rows import describe_rows
from wukong_jax.layers.dropout import Dropout
from wukong_jax.models import dlrm, xdeepfm
from wukong_jax.models.shape import ModelShape
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.microbatches import count_parts, count_row_bytes
from wukong_jax.training.run import Run, build_run

B, FIELDS = 64, 4
SCHEMA = Schema(
    "made_up",
    Source("csv"),
    labels=(LabelColumn("click"), LabelColumn("like")),
    dense=(DenseColumn("age"), DenseColumn("price")),
    categorical=(
        *(CategoricalColumn(f"c{i}", rows=40, encoding="identity") for i in range(FIELDS)),
        CategoricalColumn("tags", rows=50, encoding="identity", separator="|", max_length=3),
    ),
    domain="place",
    domain_values=("home", "shop"),
)
WUKONG = {"layers": 2, "fmb_tokens": 4, "lcb_tokens": 4, "rank": 4, "fmb_hidden": (16,), "head_hidden": (8,)}
DROPOUT = {"embedding_dropout": 0.2, "fmb_dropout": 0.3, "head_dropout": 0.1}
DLRM = {"top_hidden": (16,), "bottom_hidden": (8,)}
TOWERS = {
    "factory": "dmt.model:build",
    "options": {
        "towers": 4,
        "module": {"kind": "dlrm", "compression": 2},
        "over": "wukong_jax.models.dlrm:build",
        "over_options": DLRM,
    },
}


def make_run(microbatch: int | None, hosts: int = 1, chips: int = 1, schema: Schema = SCHEMA, **parts: object) -> Run:
    config = {
        "name": "parts",
        "data": {"factory": "blocks", "path": "unused"},
        "embeddings": {"width": 8, "optimizer": {"kind": "sgd", "learning_rate": 0.05}},
        "model": {"factory": "wukong_jax.models.wukong:build", "options": WUKONG},
        # plain gradient steps show a gradient of the wrong size, where Adam would hide it
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "training": {"batch_size": B, "evaluation_batch_size": B, "steps": 10, "microbatch": microbatch},
        "mesh": {"hosts": hosts, "chips": chips},
    }
    return build_run(build_run_config(config | parts), schema)


def make_batch(seed: int, schema: Schema = SCHEMA) -> Batch:
    """Returns a batch with padding, missing ids and unobserved labels."""
    slots = sum(column.max_length for column in schema.id_columns)
    random = np.random.default_rng(seed)
    weight = random.integers(0, 3, B).astype(np.float32)
    weight[-5:] = 0  # padding
    return Batch(
        dense=random.normal(size=(B, len(schema.dense))).astype(np.float32),
        ids=random.integers(-1, 40, (B, slots)).astype(np.int32),
        labels=random.integers(0, 2, (B, 2)).astype(np.float32),
        label_mask=(random.random((B, 2)) < 0.8).astype(np.float32),
        domain=random.integers(0, 2, B).astype(np.int32),
        group=None,
        timestamp=None,
        weight=weight,
        extras={},
    )


def take_steps(run: Run, steps: int = 2):
    step, state, metrics = run.jit_train_step(), run.init_state(), []
    for seed in range(steps):
        state, made = step(state, put_batch(make_batch(seed, run.schema), run.mesh))
        metrics.append(made)
    tables = run.exchange.export_tables(state.tables)
    return jax.device_get((metrics, state.params, {name: arrays["rows"] for name, arrays in tables.items()}))


WEIGHTED = {"factory": "lattice.losses:build", "options": {"portfolio_weights": {"shop/like": 3.0}}}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"model": {"factory": "wukong_jax.models.wukong:build", "options": WUKONG | DROPOUT}},
        {"model": {"factory": "wukong_jax.models.autoint:build", "options": {"attention_dropout": 0.3}}},
        {"model": {"factory": "lattice.network:build", "options": {"layers": 1}}, "loss": WEIGHTED},
    ],
    ids=["wukong", "dropout", "dropout of attention", "lattice"],
)
@pytest.mark.parametrize("microbatch", [16, 32])
def test_a_step_in_parts_is_the_whole_step(parts, microbatch):
    whole, in_parts = make_run(0, **parts), make_run(microbatch, **parts)
    assert (whole.count_parts(), in_parts.count_parts()) == (1, B // microbatch)
    # Sums over parts add in another order.
    chex.assert_trees_all_close(take_steps(in_parts), take_steps(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("hosts", "chips"), [(1, 1), (2, 4)])
def test_rows_without_dense_columns_are_divided_too(hosts, chips):
    schema = dataclasses.replace(SCHEMA, dense=())
    steps = [take_steps(make_run(microbatch, hosts, chips, schema)) for microbatch in (4, 0)]
    chex.assert_trees_all_close(*steps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"exchange": {"factory": "wukong_jax.embeddings.flat_exchange:build", "options": {"placement": "table_wise"}}},
        {"exchange": {"factory": "wukong_jax.embeddings.flat_exchange:build", "options": {"placement": "column_wise"}}},
        {"exchange": {"factory": "wukong_jax.embeddings.flat_exchange:build", "options": {"placement": "row_wise"}}},
        {"exchange": {"factory": "dmt.tower_exchange:build"}, "model": TOWERS},
    ],
    ids=["replicated", "table_wise", "column_wise", "row_wise", "towers"],
)
def test_parts_on_eight_devices_are_the_whole_step_on_one(parts):
    dropout = {"model": {"factory": "wukong_jax.models.wukong:build", "options": WUKONG | DROPOUT}}
    parts = dropout | parts
    whole = make_run(0, **{key: value for key, value in parts.items() if key != "exchange"})
    chex.assert_trees_all_close(take_steps(make_run(2, 4, 2, **parts)), take_steps(whole), rtol=1e-4, atol=1e-6)


def test_running_statistics_move_once_a_step_by_the_mean_over_the_parts():
    star = {"model": {"factory": "lattice.baselines.star:build"}}
    whole, in_parts = make_run(0, **star), make_run(16, **star)
    assert make_run(None, **star).count_parts() == 1  # unless asked for, moments are those of a whole batch
    before = jax.device_get(whole.init_state().statistics)
    batch = put_batch(make_batch(0), whole.mesh)
    after = jax.device_get(in_parts.jit_train_step()(in_parts.init_state(), batch)[0].statistics)
    total = jax.tree.map(np.zeros_like, before)
    for part in range(4):
        rows = slice(16 * part, 16 * (part + 1))
        alone = make_run(0, **star, training={"batch_size": 16, "evaluation_batch_size": 16, "steps": 1})
        own = jax.tree.map(lambda column, rows=rows: column[rows], make_batch(0))
        moved = alone.jit_train_step()(alone.init_state(), put_batch(own, alone.mesh))[0].statistics
        total = jax.tree.map(lambda sum, new, old: sum + (np.asarray(new) - old), total, moved, before)
    expected = jax.tree.map(lambda old, sum: old + sum / 4, before, total)
    chex.assert_trees_all_close(after, expected, rtol=1e-5, atol=1e-6)


def test_a_loss_over_the_whole_batch_cannot_be_taken_in_parts():
    correlation = {"loss": {"factory": "lattice.losses:build", "options": {"correlation_weight": 0.3}}}
    assert make_run(None, **correlation).count_parts() == 1
    with pytest.raises(UserError, match="microbatch = 16: the loss needs the whole batch"):
        make_run(16, **correlation).jit_train_step()


@pytest.mark.parametrize(
    ("device_rows", "microbatch", "row_bytes", "on_cpu", "parts"),
    [
        (4096, None, 4 * 39 * 32, True, 32),  # 1 MiB of 4.9 KiB a row: 210 rows, of which 128 divides
        (4096, None, 4 * 39 * 32, False, 1),
        (4096, 0, 4 * 39 * 32, True, 1),
        (4096, 1024, 4, False, 4),
        (100, None, 4, True, 1),  # all of it stays in the cache
        (4099, None, 4 * 39 * 32, True, 1),  # a prime: single rows would be slower
    ],
)
def test_the_default_part_stays_in_the_cache(device_rows, microbatch, row_bytes, on_cpu, parts):
    assert count_parts(device_rows, microbatch, row_bytes, on_cpu) == parts


def test_a_model_with_wide_products_of_pairs_works_in_smaller_parts():
    shape = ModelShape(dense_features=13, tokens=26, width=16, objectives=1)
    assert count_row_bytes(shape, dlrm.build({}, shape)) == 4 * 26 * 16
    wide = count_row_bytes(shape, xdeepfm.build({}, shape))
    assert count_parts(4096, None, wide, on_cpu=True) == 32  # instead of 8
    assert count_row_bytes(shape, xdeepfm.build({"cin_maps": (4,)}, shape)) == 4 * 26 * 16  # forms none


def test_a_part_that_does_not_divide_the_rows_is_refused():
    with pytest.raises(UserError, match="microbatch = 48: does not divide the 64 rows"):
        make_run(48).jit_train_step()


def test_memory_falls_with_the_part():
    whole, in_parts = (make_run(size).jit_train_step() for size in (0, 4))
    batch = put_batch(make_batch(0), make_run(0).mesh)
    temporary = [
        step.lower(make_run(0).init_state(), batch).compile().memory_analysis().temp_size_in_bytes
        for step in (whole, in_parts)
    ]
    assert temporary[1] < temporary[0] / 2


def test_a_rows_mask_depends_on_its_number_alone():
    layer, values = Dropout(0.5, deterministic=False), jnp.ones((8, 64))
    rngs = {"dropout": jax.random.key(3)}
    whole = layer.apply({}, values, rngs=rngs)
    with describe_rows(jnp.array([6, 1, 3]), jnp.ones(3, bool)):
        chosen = layer.apply({}, values[:3], rngs=rngs)
    np.testing.assert_array_equal(chosen, whole[jnp.array([6, 1, 3])])
    assert set(np.unique(whole)) == {0.0, 2.0}
    assert abs(float(whole.mean()) - 1) < 0.1  # 512 draws of deviation 1
    assert not np.array_equal(whole[0], whole[1])
