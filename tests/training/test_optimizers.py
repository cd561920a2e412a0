import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wukong_jax.config import OptimizerConfig
from wukong_jax.errors import UserError
from wukong_jax.training.optimizers import AdamWOptions, build_dense_optimizer, build_schedule


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


def slow_adamw(options, rate, weights, gradients):
    m = v = np.zeros_like(weights)
    for t, g in enumerate(gradients, 1):
        m = options.beta1 * m + (1 - options.beta1) * g
        v = options.beta2 * v + (1 - options.beta2) * g * g
        step = (m / (1 - options.beta1**t)) / (np.sqrt(v / (1 - options.beta2**t)) + options.epsilon)
        weights = weights - rate * (step + options.weight_decay * weights)
    return weights


def run_optimizer(optimizer, weights, gradients):
    params = {"kernel": jnp.asarray(weights)}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    return params["kernel"]


RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(3, 4)).astype(np.float32)
GRADIENTS = RANDOM.normal(size=(5, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(("name", "options"), [("adam", {"beta1": 0.8}), ("adamw", {"weight_decay": 0.1})])
def test_adam_equals_its_twin(name, options):
    optimizer = build_dense_optimizer(OptimizerConfig(name, options, learning_rate=0.01))
    expected = slow_adamw(AdamWOptions(**options), 0.01, WEIGHTS, GRADIENTS)
    # float32 weights near 1 round by 6e-8 in each of five steps
    np.testing.assert_allclose(run_optimizer(optimizer, WEIGHTS, GRADIENTS), expected, rtol=1e-5, atol=1e-6)


def test_adagrad_equals_its_twin():
    optimizer = build_dense_optimizer(OptimizerConfig("adagrad", {"epsilon": 1e-3}, learning_rate=0.1))
    sums, expected = np.zeros_like(WEIGHTS), WEIGHTS
    for gradient in GRADIENTS:
        sums = sums + gradient**2
        expected = expected - 0.1 * gradient / np.sqrt(sums + 1e-3)
    # float32 weights near 1 round by 6e-8 in each of five steps
    np.testing.assert_allclose(run_optimizer(optimizer, WEIGHTS, GRADIENTS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("named", "theirs"),
    [
        (("optax:lion", {"b1": 0.8}), optax.lion(0.01, b1=0.8)),
        (("optax.contrib:muon", {}), optax.contrib.muon(0.01)),
    ],
)
def test_any_optimizer_of_optax_can_be_named(named, theirs):
    built = build_dense_optimizer(OptimizerConfig(*named, learning_rate=0.01))
    ours, expected = (run_optimizer(optimizer, WEIGHTS, GRADIENTS) for optimizer in (built, theirs))
    np.testing.assert_array_equal(ours, expected)


def test_weight_decay_leaves_biases_alone():
    optimizer = build_dense_optimizer(OptimizerConfig("adamw", {"weight_decay": 0.5}))
    params = {"bias": jnp.ones(3), "kernel": jnp.ones((3, 3))}
    zeros = {"bias": jnp.zeros(3), "kernel": jnp.zeros((3, 3))}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert float(jnp.abs(updates["bias"]).max()) == 0.0
    assert float(jnp.abs(updates["kernel"]).max()) > 0.0


def test_clipping_bounds_the_gradient():
    optimizer = build_dense_optimizer(OptimizerConfig("sgd", learning_rate=1.0, clip_norm=0.5))
    params = {"kernel": jnp.zeros((2, 2))}
    updates, _ = optimizer.update({"kernel": 100 * jnp.ones((2, 2))}, optimizer.init(params), params)
    np.testing.assert_allclose(optax.global_norm(updates), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        ("adam", {"weight_decay": 0.1}, r"config\.optimizer\.options\.weight_decay = 0\.1: unknown key"),
        ("adam", {"beta1": 1.0}, r"config\.optimizer\.options\.beta1 = 1\.0: must be at least 0 and below 1"),
        ("adamw", {"weight_decay": -1.0}, "must be at least 0"),
        ("adagrad", {"beta1": 0.5}, "beta1 = 0.5: unknown key"),
        ("sgd", {"beta1": 0.5}, "beta1 = 0.5: unknown key"),
        ("adamm", {}, r"config\.optimizer\.factory = 'adamm'.*'adam' or 'adamw'"),
        ("optax:adamm", {}, r"config\.optimizer\.factory = 'optax:adamm'"),
        ("optax:lion", {"beta1": 0.5}, "unexpected keyword argument 'beta1'"),
        ("optax:adam", {"b1": "high"}, r"optax:adam\(learning_rate=0\.001, .*'high'"),
        ("optax:lbfgs", {}, "missing 3 required"),  # it wants the loss, which no step here gives
    ],
)
def test_a_wrong_optimizer_or_option_is_refused_in_one_line(factory, options, words):
    with pytest.raises(UserError, match=words) as refused:
        build_dense_optimizer(OptimizerConfig(factory, options))
    assert "\n" not in str(refused.value)
