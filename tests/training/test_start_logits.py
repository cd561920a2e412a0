"""Tests start logits: their values, and networks of every model that start at the training rows' rates."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.models.model_list import list_models
from wukong_jax.models.outputs import Outputs
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.start_logits import START_LOGITS, add_start_logits, compute_start_logits
from wukong_jax.training.state import init_train_state
from wukong_jax.training.step import build_predict_step

ROWS, VOCABULARY, COLUMNS = 256, 50, tuple(f"c{index}" for index in range(8))
RATES = np.array([[0.01, 0.002], [0.03, 0.005]])  # by domain and objective
WEIGHTS = st.floats(0, 1e9)
# Options without which a factory builds nothing.
NEEDED = {
    "lattice.baselines.pepnet:build": {"prior_columns": COLUMNS[:2]},
    "dmt.model:build": {"towers": 2},
}


def make_schema(domains: int) -> Schema:
    return Schema(
        "made_up",
        Source("csv"),
        labels=(LabelColumn("click"), LabelColumn("buy")),
        dense=(DenseColumn("d"),),
        categorical=tuple(CategoricalColumn(name, "identity", rows=VOCABULARY) for name in COLUMNS),
        domain="where" if domains > 1 else None,
        domain_values=("x", "y") if domains > 1 else (),
    )


def make_run(model="wukong_jax.models.dlrm:build", options=None, domains=2, devices=1, **changes) -> Run:
    config = {
        "name": "start",
        "data": {"factory": "blocks", "path": "unused"},
        # logistic regression wants one number per objective
        "embeddings": {"width": 2 if "logistic" in model else 8, "optimizer": {"kind": "sgd", "learning_rate": 0.1}},
        "model": {"factory": model, "options": options or {}},
        "training": {"batch_size": ROWS, "evaluation_batch_size": ROWS, "steps": 1},
        "mesh": {"chips": devices},
    }
    return build_run(build_run_config(config | changes), make_schema(domains))


def make_batch(domains=2, seed=0) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        dense=random.normal(size=(ROWS, 1)).astype(np.float32),
        ids=random.integers(0, VOCABULARY, (ROWS, len(COLUMNS))).astype(np.int32),
        labels=(random.random((ROWS, 2)) < 0.05).astype(np.float32),
        label_mask=np.ones((ROWS, 2), np.float32),
        domain=random.integers(0, domains, ROWS).astype(np.int32),
        group=np.zeros(ROWS, np.int32),
        timestamp=np.zeros(ROWS, np.int64),
        weight=np.ones(ROWS, np.float32),
        extras={},
    )


def predict(run: Run, state, batch) -> np.ndarray:
    return np.asarray(run.predict_step(state.params, state.statistics, state.tables, put_batch(batch, run.mesh)))


def test_one_domain_starts_at_the_log_odds_of_its_labels():
    np.testing.assert_allclose(
        compute_start_logits(np.array([[[9.0, 1000.0], [30, 40]]])), logit([[0.009, 0.75]]), 1e-6
    )


def test_a_domain_with_few_labels_is_near_the_objective_s_rate():
    sums = np.array([[[100.0, 10_000.0]], [[0.0, 3.0]], [[0.0, 0.0]], [[5000.0, 10_000.0]]])
    rates = expit(compute_start_logits(sums))[:, 0]
    overall = 5100 / 20_003
    assert rates[1] == pytest.approx(overall * 100 / 103, rel=1e-5)
    assert rates[2] == pytest.approx(overall, rel=1e-5)
    assert rates[0] == pytest.approx((100 + 100 * overall) / 10_100, rel=1e-5)


def test_one_class_starts_at_a_finite_logit_and_no_label_at_zero():
    start = compute_start_logits(np.array([[[0.0, 99.0], [99.0, 99.0], [0.0, 0.0]]]))[0]
    np.testing.assert_allclose(start, [logit(0.005), logit(0.995), 0], rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WEIGHTS, WEIGHTS), min_size=1, max_size=5))
def test_start_logits_are_finite_and_between_the_domains_rates(pairs):
    sums = np.array([[[min(pair), max(pair)]] for pair in pairs])
    start = compute_start_logits(sums)
    assert start.dtype == np.float32
    assert np.isfinite(start).all()
    assert np.abs(start).max() <= 20
    rates = [p / n for p, n in sums[:, 0] if n > 0]
    if rates and min(rates) > 0 and max(rates) < 1:
        assert min(rates) * 0.999 - 1e-8 <= expit(start.astype(np.float64)).min()
        assert expit(start.astype(np.float64)).max() <= max(rates) * 1.001 + 1e-8


@pytest.mark.parametrize(
    ("model", "domains"), [*((model, 2) for model in list_models()), ("wukong_jax.models.wukong:build", 1)]
)
def test_a_new_network_of_any_model_predicts_the_training_rates(model, domains):
    """At 1 % clicks, a network whose logits start at 0 has a normalized entropy of 12."""
    run = make_run(model, NEEDED.get(model), domains)
    rates, batch = RATES[:domains], make_batch(domains)
    start = logit(rates).astype(np.float32)

    def predict_new(batch):
        state = init_train_state(run.network, run.shape, run.exchange, run.optimizer, 0, start)
        return build_predict_step(run.network, run.exchange)(state.params, state.statistics, state.tables, batch)

    options = {"xla_backend_optimization_level": 0}  # compiles in a third of the time
    predicted = expit(np.asarray(jax.jit(predict_new, compiler_options=options)(batch), np.float64))
    for domain in range(domains):
        np.testing.assert_allclose(predicted[batch.domain == domain].mean(axis=0), rates[domain], rtol=0.05)
    rate = rates[batch.domain]
    loss = -(rate * np.log(predicted) + (1 - rate) * np.log1p(-predicted)).mean(axis=0)
    least = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)).mean(axis=0)
    np.testing.assert_allclose(loss / least, 1, atol=0.005)


@pytest.mark.parametrize("kind", ["tied", "distillation"])
def test_lattice_s_heads_and_its_distillation_head_start_at_the_rates(kind):
    run = make_run("lattice.network:build", {"distillation_head": kind == "distillation"})
    state, batch = run.init_state(logit(RATES).astype(np.float32)), make_batch()
    assert np.abs(predict(run, state, batch) - logit(RATES)[batch.domain]).max() < 0.1
    added = add_start_logits(
        Outputs(jnp.zeros((ROWS, 2)), {"distilled_logits": jnp.ones((ROWS, 2)), "backbone": jnp.ones((ROWS, 2))}),
        jnp.asarray(logit(RATES)),
        batch.domain,
    )
    np.testing.assert_allclose(added.aux["distilled_logits"], 1 + logit(RATES)[batch.domain], rtol=1e-6)
    np.testing.assert_array_equal(added.aux["backbone"], 1)


def test_towers_that_run_on_their_own_hosts_start_at_the_rates():
    exchange = {"factory": "dmt.tower_exchange:build", "options": {}}
    run = make_run(
        "dmt.model:build",
        {"towers": 2, "module": {"kind": "dlrm", "compression": 2}},
        exchange=exchange,
        mesh={"hosts": 2, "chips": 2},
    )
    assert run.exchange.compresses
    state, batch = run.init_state(logit(RATES).astype(np.float32)), make_batch()
    assert np.abs(predict(run, state, batch) - logit(RATES)[batch.domain]).max() < 0.1


def train(run: Run, steps: int, start=None):
    step, state = run.jit_train_step(), run.init_state(start)
    for seed in range(steps):
        state, metrics = step(state, put_batch(make_batch(seed=seed), run.mesh))
    return state, metrics


@pytest.mark.parametrize("model", ["wukong_jax.models.dlrm:build", "lattice.baselines.star:build"])
def test_steps_and_weight_decay_leave_start_logits_as_they_are(model):
    start = logit(RATES).astype(np.float32)
    decaying = {"factory": "adamw", "learning_rate": 0.1, "options": {"weight_decay": 0.5}}
    run = make_run(model, optimizer=decaying)
    state, _ = train(run, 3, start)
    np.testing.assert_array_equal(state.statistics[START_LOGITS], start)
    assert START_LOGITS not in state.params
    if "star" in model:  # the running statistics beside them do change
        assert float(state.statistics["model"]["partitioned_norm"]["batches"].sum()) > 0


def test_training_on_eight_devices_equals_training_on_one():
    start = logit(RATES).astype(np.float32)
    one, many = (
        jax.device_get((state.params, state.statistics, metrics["loss_sum"]))
        for state, metrics in (train(make_run(devices=devices), 3, start) for devices in (1, 8))
    )
    # Gradients are summed over devices in another order: float32 rounding.
    chex.assert_trees_all_close(many, one, rtol=1e-4, atol=1e-6)


def test_without_the_option_there_are_no_start_logits_and_logits_start_near_zero():
    run = make_run(training={"batch_size": ROWS, "evaluation_batch_size": ROWS, "steps": 1, "start_at_rate": False})
    state = run.init_state(logit(RATES).astype(np.float32))
    assert state.statistics == {}
    assert np.abs(predict(run, state, make_batch())).max() < 0.1
    assert dataclasses.replace(run.config.training, start_at_rate=True) == make_run().config.training
