"""Tests batch norm against NumPy: moments of the counted rows in training, moving averages at test time."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wukong_jax.layers.batch_norm import STATISTICS, BatchNorm, batch_moments
from wukong_jax.layers.batch_rows import describe_rows
from wukong_jax.layers.mlp import MLP, MLPStack

PARAMS = {"scale": jnp.array([1.0, 2.0, 0.5]), "bias": jnp.array([0.0, -1.0, 3.0])}


def start(layer, values):
    return layer.init(jax.random.key(0), values, train=True)[STATISTICS]


def draw(rows, seed=0):
    return np.random.default_rng(seed).normal(5, [1, 3, 0.1], size=(rows, 3)).astype(np.float32)


def twin(values, counted):
    """Returns the normalised values, the mean and the unbiased variance, feature by feature."""
    made, means, variances = np.zeros(values.shape), [], []
    for feature in range(values.shape[1]):
        column = values[:, feature].astype(np.float64)
        own = [value for value, count in zip(column, counted, strict=True) if count]
        mean = sum(own) / len(own)
        variance = sum((value - mean) ** 2 for value in own) / len(own)
        normal = (column - mean) / np.sqrt(variance + 1e-5)
        made[:, feature] = float(PARAMS["scale"][feature]) * normal + float(PARAMS["bias"][feature])
        means.append(mean)
        variances.append(variance * len(own) / (len(own) - 1))
    return made, np.array(means), np.array(variances)


@pytest.mark.parametrize("padding", [0, 3])
def test_training_uses_the_moments_of_the_counted_rows(padding):
    values, counted = draw(9), np.arange(9) < 9 - padding
    values[~counted] = 1e3  # must not be seen
    variables = {"params": PARAMS, STATISTICS: start(BatchNorm(), values)}
    with describe_rows(jnp.arange(9), jnp.array(counted)):
        made, changed = BatchNorm().apply(variables, values, train=True, mutable=[STATISTICS])
    expected, mean, variance = twin(values, counted)
    np.testing.assert_allclose(made[counted], expected[counted], rtol=1e-4, atol=1e-4)  # 5 +- 0.1 in float32
    np.testing.assert_allclose(changed[STATISTICS]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(changed[STATISTICS]["variance"], variance, rtol=1e-4)
    assert changed[STATISTICS]["batches"] == 1


def test_test_time_uses_a_mean_over_batches_that_becomes_a_moving_average():
    layer, batches = BatchNorm(momentum=0.75), [draw(8, seed) for seed in range(7)]
    kept = start(layer, batches[0])
    mean, variance = np.zeros(3), np.ones(3)
    for number, values in enumerate(batches):
        _, changed = layer.apply({"params": PARAMS, STATISTICS: kept}, values, train=True, mutable=[STATISTICS])
        kept, (_, own_mean, own_variance) = changed[STATISTICS], twin(values, np.ones(8))
        rate = max(0.25, 1 / (number + 1))
        mean, variance = mean + rate * (own_mean - mean), variance + rate * (own_variance - variance)
    served = layer.apply({"params": PARAMS, STATISTICS: kept}, batches[0], train=False)
    expected = PARAMS["scale"] * (batches[0] - mean) / np.sqrt(variance + 1e-5) + PARAMS["bias"]
    np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_leave_the_averages_as_they_are(rows):
    values = draw(4)
    before = start(BatchNorm(), values) | {"mean": jnp.array([1.0, 2.0, 3.0])}
    with describe_rows(jnp.arange(4), jnp.arange(4) < rows):
        made, changed = BatchNorm().apply(
            {"params": PARAMS, STATISTICS: before}, values, train=True, mutable=[STATISTICS]
        )
    chex.assert_trees_all_equal(changed[STATISTICS], before)
    assert np.isfinite(made).all()


def test_gradients_flow_through_the_moments():
    values, direction = draw(6).astype(np.float64), np.random.default_rng(1).normal(size=(6, 3))
    kept = start(BatchNorm(), draw(6))

    def loss(values):
        return (
            BatchNorm().apply({"params": PARAMS, STATISTICS: kept}, values, train=True, mutable=[STATISTICS])[0] ** 3
        ).sum()

    def twin_loss(values):
        return (twin(values, np.ones(6))[0] ** 3).sum()

    slope = (twin_loss(values + 1e-5 * direction) - twin_loss(values - 1e-5 * direction)) / 2e-5
    found = float((jax.grad(loss)(jnp.asarray(values, jnp.float32)) * direction).sum())
    assert found == pytest.approx(slope, rel=1e-3)
    assert abs(slope) > 1e-2


def test_variance_survives_a_large_mean():
    values = np.float32(4096) + np.float32([[0.0], [1.0], [2.0], [3.0]])
    assert float(batch_moments(jnp.array(values), jnp.ones(4, bool))[2][0]) == 1.25


def test_an_array_of_mlps_equals_its_mlps_one_by_one():
    inputs = draw(16)
    stack = MLPStack((5, 4), 2, norm="batch", counts=(3,))
    variables = stack.init(jax.random.key(0), inputs, train=True)
    made, changed = stack.apply(variables, inputs, train=True, mutable=[STATISTICS])
    for index in range(3):
        own = jax.tree.map(
            lambda leaf, index=index: leaf[index], {name: tree["mlp"] for name, tree in variables.items()}
        )
        alone, moved = MLP((5, 4), 2, norm="batch").apply(own, inputs, train=True, mutable=[STATISTICS])
        np.testing.assert_allclose(made[index], alone, rtol=1e-5, atol=1e-6)
        expected = jax.tree.map(lambda leaf, index=index: leaf[index], changed[STATISTICS]["mlp"])
        chex.assert_trees_all_close(expected, moved[STATISTICS], rtol=1e-5, atol=1e-6)
