import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import wukong_twin
from wukong_jax.layers.layer_norm import LayerNorm, normalize

AXES = {"flat_vector": ((3, 7), (1,)), "token": ((3, 4, 5), (1,)), "all_tokens": ((3, 4, 5), (1, 2))}


def draw(shape, axes, scale=1.0):
    random = np.random.default_rng(0)
    sizes = [shape[axis] for axis in axes]
    values = (scale * (random.normal(size=shape) + 0.5)).astype(np.float32)
    return values, *(random.normal(size=sizes).astype(np.float32) for _ in range(2)), random.normal(size=shape)


@pytest.mark.parametrize("case", AXES)
def test_values_and_gradients_equal_numpy(case):
    """The gradient's twin is a central difference of the float64 twin."""
    shape, axes = AXES[case]
    values, scale, bias, weights = draw(shape, axes)

    def twin(values, scale, bias):
        spread = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        rows = [
            wukong_twin.layer_norm(row, 0.1, s, b, tuple(axis - 1 for axis in axes))
            for row, s, b in zip(
                values, [scale.reshape(spread)[0]] * len(values), [bias.reshape(spread)[0]] * len(values), strict=True
            )
        ]
        return np.stack(rows)

    made = normalize(values, scale, bias, axes, 0.1)
    np.testing.assert_allclose(made, twin(values, scale, bias), rtol=1e-5, atol=1e-5)  # float32 sums of 20 terms
    loss = jax.jit(jax.grad(lambda *a: (normalize(*a, axes, 0.1) * weights).sum(), (0, 1, 2)))
    exact = [a.astype(np.float64) for a in (values, scale, bias)]
    for which, gradient in enumerate(loss(values, scale, bias)):
        for index in np.ndindex(exact[which].shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in exact]
                moved[which][index] += step
                sides.append((twin(*moved) * weights).sum())
            # float32 rounding of the gradient; the difference's own error is 1e-9
            assert gradient[index] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-5)


def test_tiny_values_far_from_zero_keep_their_variance():
    values = (1.0 + 1e-3 * np.random.default_rng(0).normal(size=(4, 64))).astype(np.float32)
    made = normalize(values, jnp.ones(64), jnp.zeros(64), (1,), 1e-12)
    np.testing.assert_allclose(np.std(made, axis=1), 1, rtol=1e-3)  # a difference of means would lose all but a digit


def test_bfloat16_statistics_are_float32():
    values = jnp.asarray(100 + np.random.default_rng(0).normal(size=(4, 512)), jnp.bfloat16)
    made = normalize(values, jnp.ones(512), jnp.zeros(512), (1,), 1e-6)
    assert made.dtype == jnp.bfloat16
    # sums of 512 values near 100 in bfloat16 would be off by tens of percent; the result's own rounding is 2**-9
    np.testing.assert_allclose(np.asarray(made, np.float32).mean(1), 0, atol=2**-9)
    np.testing.assert_allclose(np.asarray(made, np.float32).std(1), 1, rtol=2**-8)


def test_module_starts_as_a_plain_norm():
    values = draw((3, 4, 5), (1,))[0]
    model = LayerNorm((1,), 1e-6)
    variables = jax.tree.map(np.asarray, model.init(jax.random.key(0), values))
    assert variables["params"]["scale"].shape == (4,)
    np.testing.assert_array_equal(variables["params"]["scale"], 1)
    np.testing.assert_array_equal(variables["params"]["bias"], 0)
    made = model.apply(variables, values)
    np.testing.assert_allclose(np.mean(made, axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(made, axis=1), 1, rtol=1e-4)
    moved = model.apply({"params": jax.tree.map(lambda leaf: leaf + 1, variables["params"])}, values)
    np.testing.assert_allclose(moved, 2 * made + 1, rtol=1e-5, atol=1e-5)
