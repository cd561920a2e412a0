"""Tests the losses against NumPy, portfolio by portfolio."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice.losses import build, compute_correlation_loss
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.models.outputs import Outputs
from wukong_jax.schema import DenseColumn, LabelColumn, Schema, Source

DOMAINS = ("home", "shop", "away")
SCHEMA = Schema(
    "two objectives",
    Source("csv"),
    (LabelColumn("click"), LabelColumn("like")),
    dense=(DenseColumn("x"),),
    domain="place",
    domain_values=DOMAINS,
)


def make_batch(rows=60, seed=0):
    random = np.random.default_rng(seed)
    batch = Batch(
        dense=np.zeros((rows, 1), np.float32),
        ids=np.zeros((rows, 0), np.int32),
        labels=(random.random((rows, 2)) < 0.4).astype(np.float32),
        label_mask=(random.random((rows, 2)) < 0.8).astype(np.float32),
        domain=random.integers(0, 2, rows).astype(np.int32),  # none of "away"
        group=None,
        timestamp=None,
        weight=random.choice([0, 1, 2], rows).astype(np.float32),
        extras={},
    )
    return batch, random.normal(size=(rows, 2)).astype(np.float32)


def slow_correlation_loss(logits, batch):
    losses = []
    for domain in range(3):
        for objective in range(2):
            mass = batch.weight * batch.label_mask[:, objective] * (batch.domain == domain)
            x, y = batch.labels[:, objective], 1 / (1 + np.exp(-logits[:, objective].astype(np.float64)))
            if mass.sum() == 0 or len(set(x[mass > 0])) == 1:
                continue
            x, y = x - np.average(x, weights=mass), y - np.average(y, weights=mass)
            losses.append(1 - (mass * x * y).sum() / np.sqrt((mass * x * x).sum() * (mass * y * y).sum()))
    return np.mean(losses)


def test_correlation_loss_equals_its_twin():
    batch, logits = make_batch()
    made = compute_correlation_loss(jnp.asarray(logits), batch, 3)
    np.testing.assert_allclose(made, slow_correlation_loss(logits, batch), rtol=1e-5)


def test_correlation_loss_leaves_out_what_has_no_correlation():
    batch, logits = make_batch()
    one_class = batch._replace(labels=np.where(batch.domain[:, None] == 0, 1, batch.labels).astype(np.float32))
    made = compute_correlation_loss(jnp.asarray(logits), one_class, 3)
    np.testing.assert_allclose(made, slow_correlation_loss(logits, one_class), rtol=1e-5)

    def loss(logits):
        return compute_correlation_loss(logits, one_class, 3)

    same = jnp.zeros_like(logits)
    assert loss(same) == 0
    for values in (same, jnp.asarray(logits)):
        gradient = np.asarray(jax.grad(loss)(values))
        assert np.isfinite(gradient).all()
        assert np.all(gradient[one_class.domain == 0] == 0)


def test_portfolio_weights_weigh_their_rows():
    batch, logits = make_batch()
    weights = {"shop/like": 3.0, "like": 0.5, "home/click": 0.0}
    loss = build({"portfolio_weights": weights}, SCHEMA)(Outputs(jnp.asarray(logits), {}), batch)
    table = np.array([[0.0, 0.5], [1.0, 3.0], [1.0, 0.5]])
    each = np.log1p(np.exp(logits)) - batch.labels * logits
    mass = batch.label_mask * batch.weight[:, None]
    np.testing.assert_allclose(loss.log_loss_sum, (each * mass).sum(), rtol=1e-5)
    mass = mass * table[batch.domain]
    np.testing.assert_allclose(loss.minimised, (each * mass).sum() / mass.sum(), rtol=1e-5)


def test_correlation_loss_is_added_with_its_weight():
    batch, logits = make_batch()
    plain, more = (
        build({"correlation_weight": weight}, SCHEMA)(Outputs(jnp.asarray(logits), {}), batch) for weight in (0.0, 0.5)
    )
    np.testing.assert_allclose(plain.minimised, plain.log_loss_sum / plain.weight_sum, rtol=1e-6)
    np.testing.assert_allclose(more.minimised - plain.minimised, 0.5 * slow_correlation_loss(logits, batch), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation_weight": -1.0}, r"config.loss.options.correlation_weight = -1.0: must be at least 0"),
        (
            {"portfolio_weights": {"shop/buy": 1.0}},
            r"portfolio_weights.shop/buy: no such portfolio; objectives are click",
        ),
        ({"portfolio_weights": {"moon/click": 1.0}}, r"domains home, shop, away"),
        ({"portfolio_weights": {"click": -0.5}}, r"portfolio_weights.click = -0.5: must be at least 0"),
        ({"portfolio_weights": {"click": np.inf}}, r"portfolio_weights.click = inf: must be at least 0 and finite"),
        ({"label_smoothing": 0.1}, r"label_smoothing = 0.1: without distillation_weight there is no teacher's label"),
        ({"nonsense": 1}, r"nonsense"),
    ],
)
def test_refuses_what_it_cannot_weigh(options, message):
    with pytest.raises(UserError, match=message):
        build(options, SCHEMA)
