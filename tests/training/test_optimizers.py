import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wukong_jax.config import OptimizerConfig
from wukong_jax.errors import UserError
from wukong_jax.training.optimizers import build_dense_optimizer, build_schedule


def slow_schedule(config, step):
    after = step + 1
    factor = min(after / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return factor
    progress = min(max((after - config.warmup_steps - config.hold_steps) / config.decay_steps, 0.0), 1.0)
    fall = (1 - np.cos(np.pi * progress)) / 2 if config.schedule == "cosine" else progress
    return factor * (1 - fall + config.final_fraction * fall)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("hold", [0, 7])
def test_schedule_equals_its_twin(schedule, warmup, hold):
    decay = {} if schedule == "constant" else {"decay_steps": 20, "hold_steps": hold, "final_fraction": 0.1}
    config = OptimizerConfig(schedule=schedule, warmup_steps=warmup, **decay)
    built = build_schedule(config)
    for step in range(40):
        # float32 cosine against float64
        np.testing.assert_allclose(built(jnp.int32(step)), slow_schedule(config, step), rtol=1e-5, atol=1e-6)


def slow_adamw(config, weights, gradients):
    m = v = np.zeros_like(weights)
    for t, g in enumerate(gradients, 1):
        m = config.beta1 * m + (1 - config.beta1) * g
        v = config.beta2 * v + (1 - config.beta2) * g * g
        step = (m / (1 - config.beta1**t)) / (np.sqrt(v / (1 - config.beta2**t)) + config.epsilon)
        weights = weights - config.learning_rate * (step + config.weight_decay * weights)
    return weights


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.1)])
def test_adam_equals_its_twin(name, decay):
    config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=decay)
    random = np.random.default_rng(0)
    weights = random.normal(size=(3, 4)).astype(np.float32)
    gradients = random.normal(size=(5, 3, 4)).astype(np.float32)
    optimizer = build_dense_optimizer(config)
    params = {"kernel": jnp.asarray(weights)}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    # float32 weights near 1 round by 6e-8 in each of five steps
    np.testing.assert_allclose(params["kernel"], slow_adamw(config, weights, gradients), rtol=1e-5, atol=1e-6)


def test_weight_decay_leaves_biases_alone():
    optimizer = build_dense_optimizer(OptimizerConfig(name="adamw", weight_decay=0.5))
    params = {"bias": jnp.ones(3), "kernel": jnp.ones((3, 3))}
    zeros = {"bias": jnp.zeros(3), "kernel": jnp.zeros((3, 3))}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert float(jnp.abs(updates["bias"]).max()) == 0.0
    assert float(jnp.abs(updates["kernel"]).max()) > 0.0


def test_clipping_bounds_the_gradient():
    optimizer = build_dense_optimizer(OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=0.5))
    params = {"kernel": jnp.zeros((2, 2))}
    updates, _ = optimizer.update({"kernel": 100 * jnp.ones((2, 2))}, optimizer.init(params), params)
    np.testing.assert_allclose(optax.global_norm(updates), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.1},
        {"name": "sgd", "beta1": 0.5},
        {"name": "sgd", "epsilon": 1e-3},
        {"schedule": "cosine"},
        {"decay_steps": 5},
        {"hold_steps": 5},
        {"learning_rate": 0.0},
        {"clip_norm": -1.0},
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings):
    with pytest.raises(UserError):
        OptimizerConfig(**settings)
