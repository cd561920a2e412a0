"""Tests the step's invariants: one trace, no table-sized temporary, in-place tables, sharded equal to one device."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.loss import sum_log_loss
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.step import build_train_step

ROWS = 64


def make_schema(vocabulary: int) -> Schema:
    return Schema(
        name="made_up",
        source=Source(format="csv"),
        labels=(LabelColumn("click"), LabelColumn("buy")),
        dense=(DenseColumn("age"),),
        categorical=(
            CategoricalColumn("item", rows=vocabulary),
            CategoricalColumn("tags", rows=50, separator="|", max_length=3),
        ),
    )


def make_config(
    optimizer: str = "rowwise_adagrad", dtype: str = "float32", hosts: int = 1, chips: int = 1
) -> RunConfig:
    return build_run_config(
        {
            "name": "step",
            "data": {"factory": "blocks", "path": "unused"},
            "embeddings": {"width": 8, "dtype": dtype, "optimizer": {"kind": optimizer, "learning_rate": 0.05}},
            "model": {"options": {"layers": 1, "fmb_tokens": 4, "lcb_tokens": 4, "rank": 4, "fmb_hidden": (16,)}},
            "optimizer": {"learning_rate": 0.01},
            "training": {"batch_size": ROWS, "evaluation_batch_size": ROWS, "steps": 10},
            "mesh": {"hosts": hosts, "chips": chips},
        }
    )


def make_batch(seed: int, vocabulary: int, padding: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    ids = np.concatenate(
        [random.integers(0, vocabulary, (ROWS, 1)), random.integers(-1, 50, (ROWS, 3))], axis=1
    ).astype(np.int32)
    weight = np.ones(ROWS, np.float32)
    if padding:
        weight[-padding:] = 0
        ids[-padding:] = -1
    return Batch(
        dense=random.normal(size=(ROWS, 1)).astype(np.float32),
        ids=ids,
        labels=random.integers(0, 2, (ROWS, 2)).astype(np.float32),
        label_mask=random.integers(0, 2, (ROWS, 2)).astype(np.float32),
        domain=np.zeros(ROWS, np.int32),
        group=np.zeros(ROWS, np.int32),
        timestamp=np.zeros(ROWS, np.int64),
        weight=weight,
        extras={},
    )


def make_run(vocabulary: int = 100, **settings) -> Run:
    return build_run(make_config(**settings), make_schema(vocabulary))


def test_loss_equals_its_twin_and_reads_no_masked_or_padded_row():
    batch = make_batch(0, 100, padding=9)
    logits = np.random.default_rng(1).normal(size=(ROWS, 2)).astype(np.float32)
    total = weight = 0.0
    for row in range(ROWS):
        for objective in range(2):
            w = batch.weight[row] * batch.label_mask[row, objective]
            p = 1 / (1 + np.exp(-float(logits[row, objective])))
            total -= w * np.log(p if batch.labels[row, objective] else 1 - p)
            weight += w
    loss_sum, weight_sum = sum_log_loss(jnp.asarray(logits), batch)
    np.testing.assert_allclose(loss_sum, total, rtol=1e-5)  # float32 sums
    assert float(weight_sum) == weight


def test_the_step_is_traced_once():
    run = make_run()
    schedule = lambda step: jnp.float32(1.0)  # noqa: E731
    step = build_train_step(run.network, run.exchange, run.optimizer, schedule)
    traced_once = jax.jit(chex.assert_max_traces(step, n=1))
    chex.clear_trace_counter()
    state = run.init_state()
    for seed in range(3):
        state, _ = traced_once(state, put_batch(make_batch(seed, 100, padding=seed), run.mesh))
    assert int(state.step) == 3


def compile_step(run: Run, vocabulary: int):
    batch = put_batch(make_batch(0, vocabulary), run.mesh)
    return run.jit_train_step().lower(run.init_state(), batch).compile()


# Every optimizer with every dtype is held to this in tests/embeddings; here it is the whole step's turn.
@pytest.mark.parametrize(("optimizer", "dtype"), [("rowwise_adagrad", "float32"), ("lazy_adam", "bfloat16")])
def test_the_whole_step_makes_no_temporary_of_a_tables_size(optimizer, dtype):
    small, large = (
        compile_step(make_run(rows, optimizer=optimizer, dtype=dtype), rows).memory_analysis()
        for rows in (20_000, 200_000)
    )
    # 200,000 rows of 8 float32 are 6.4 MB; what may differ is rounding of a buffer's alignment.
    assert abs(large.temp_size_in_bytes - small.temp_size_in_bytes) < 4096
    table_bytes = 180_000 * 8 * (2 if dtype == "bfloat16" else 4)
    assert large.alias_size_in_bytes - small.alias_size_in_bytes >= table_bytes  # updated in place


def take_steps(run: Run, steps: int):
    step = run.jit_train_step()
    state = run.init_state()
    for seed in range(steps):
        state, metrics = step(state, put_batch(make_batch(seed, 100, padding=seed), run.mesh))
    tables = {name: arrays["rows"] for name, arrays in run.exchange.export_tables(state.tables).items()}
    return *jax.device_get((state.params, metrics["loss_sum"])), tables


@pytest.fixture(scope="module")
def one_device():
    return take_steps(make_run(), 4)


@pytest.mark.parametrize(("hosts", "chips"), [(1, 8), (4, 2)])
def test_training_on_eight_devices_equals_training_on_one(one_device, hosts, chips):
    many = take_steps(make_run(hosts=hosts, chips=chips), 4)
    # Gradients are summed over devices in another order: float32 rounding, amplified by AdaGrad's first steps.
    chex.assert_trees_all_close(many, one_device, rtol=1e-3, atol=1e-5)


def test_padding_rows_change_nothing():
    run = make_run()
    step = run.jit_train_step()
    batch = make_batch(0, 100, padding=16)
    other = batch._replace(
        dense=np.where(batch.weight[:, None] > 0, batch.dense, 7.0).astype(np.float32),
        labels=np.where(batch.weight[:, None] > 0, batch.labels, 1 - batch.labels),
    )
    results = [jax.device_get(step(run.init_state(), put_batch(b, run.mesh))) for b in (batch, other)]
    chex.assert_trees_all_equal(*results)


def test_bfloat16_compute_stays_near_float32(one_device):
    config = make_config()
    half = dataclasses.replace(config, training=dataclasses.replace(config.training, compute_dtype="bfloat16"))
    loss = take_steps(build_run(half, make_schema(100)), 4)[1]
    np.testing.assert_allclose(loss, one_device[1], rtol=0.02)  # bfloat16 has 8 bits of mantissa
    assert loss != one_device[1]


def test_logits_of_a_new_model_are_near_zero():
    run = make_run()
    state = run.init_state()
    predict = functools.partial(run.predict_step, state.params, state.statistics, state.tables)
    assert float(jnp.abs(predict(put_batch(make_batch(0, 100), run.mesh))).max()) < 0.2
