"""Tests that Wukong learns pairwise interactions that no sum of functions of single fields can represent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wukong_jax.models import logistic_regression, wukong
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape

FIELDS, VALUES, WIDTH, ROWS, STEPS = 6, 8, 8, 1024, 250


def planted_logit(ids):
    """Sums dot products of all pairs of centred vectors: order 2 only, standard deviation 2."""
    vectors = np.random.default_rng(0).normal(size=(FIELDS, VALUES, 4))
    vectors -= vectors.mean(axis=1, keepdims=True)
    chosen = jnp.asarray(vectors, jnp.float32)[jnp.arange(FIELDS), ids]
    total = chosen.sum(axis=1)
    return 0.28 * ((total**2).sum(-1) - (chosen**2).sum((1, 2)))


def draw(key):
    first, second = jax.random.split(key)
    ids = jax.random.randint(first, (ROWS, FIELDS), 0, VALUES)
    return ids, planted_logit(ids)[:, None], jax.random.uniform(second, (ROWS, 1))


def log_loss(logits, target):
    return (jax.nn.softplus(logits) - logits * target).mean()


def excess_log_loss(module, options, width):
    """Trains on new rows; returns the excess log loss over Bayes on unseen rows, by the true probabilities."""
    model = module.build(options, ModelShape(0, FIELDS, width, 1))

    def logits(params, ids):
        embeddings = params["table"][jnp.arange(FIELDS), ids]
        inputs = ModelInputs(jnp.zeros((ROWS, 0)), embeddings, jnp.ones(ids.shape), jnp.zeros(ROWS, jnp.int32), {})
        if params["model"] is None:
            return model.init(jax.random.key(1), inputs, train=False)
        return model.apply(params["model"], inputs, train=True).logits

    table = 0.02 * jax.random.normal(jax.random.key(0), (FIELDS, VALUES, width))
    params = {"table": table, "model": logits({"table": table, "model": None}, jnp.zeros((ROWS, FIELDS), jnp.int32))}
    optimizer = optax.adam(1e-2)

    def step(carry, index):
        params, state = carry
        ids, logit, uniform = draw(jax.random.fold_in(jax.random.key(2), index))
        labels = (uniform < jax.nn.sigmoid(logit)).astype(jnp.float32)
        gradient = jax.grad(lambda params: log_loss(logits(params, ids), labels))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train_and_score(params):
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(STEPS))
        ids, logit, _ = draw(jax.random.key(3))
        target = jax.nn.sigmoid(logit)
        return log_loss(logits(params, ids), target) - log_loss(logit, target)

    return float(train_and_score(params))


def test_wukong_learns_pairs_and_logistic_regression_does_not():
    options = {"layers": 1, "fmb_tokens": 4, "lcb_tokens": 4, "rank": 4, "fmb_hidden": [32], "head_hidden": [32]}
    linear = excess_log_loss(logistic_regression, {}, 1)
    assert linear > 0.2  # nothing linear is planted
    assert 0 < excess_log_loss(wukong, options, WIDTH) < 0.25 * linear
