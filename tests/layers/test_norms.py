import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wukong_jax.layers.norms import LayerNorm, RMSNorm, normalize

# shape of the values, axes that are normalised, whether the mean is subtracted, entries of the last axis that count
CASES = {
    "flat_vector": ((3, 7), (1,), True, None),
    "token": ((3, 4, 5), (1,), True, None),
    "all_tokens": ((3, 4, 5), (1, 2), True, None),
    "mean square": ((3, 4, 5), (2,), False, None),
    "padded": ((2, 3, 4, 5), (2, 3), True, 3),
}


def draw(shape, axes, scale=1.0):
    random = np.random.default_rng(0)
    sizes = [size if axis in axes else 1 for axis, size in enumerate(shape)]
    values = (scale * (random.normal(size=shape) + 0.5)).astype(np.float32)
    return values, *(random.normal(size=sizes).astype(np.float32) for _ in range(2)), random.normal(size=shape)


def twin(values, scale, bias, axes, epsilon, centred, mask):
    """Computes the norm from its definition with a loop over the entries outside of `axes`."""
    made = np.zeros(values.shape)
    others = [size if axis not in axes else 1 for axis, size in enumerate(values.shape)]
    for place in np.ndindex(*others):
        block = tuple(slice(None) if axis in axes else index for axis, index in enumerate(place))
        counted = values[block][mask[block] == 1]
        mean = counted.mean() if centred else 0.0
        deviation = np.sqrt(((counted - mean) ** 2).mean() + epsilon)
        made[block] = mask[block] * (values[block] - mean) / deviation
    return made * scale + (bias if centred else 0)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_numpy(case):
    """The gradient's twin is a central difference of the float64 twin."""
    shape, axes, centred, counted = CASES[case]
    values, scale, bias, weights = draw(shape, axes)
    mask = np.ones(shape, np.float32)
    mask[..., counted:] = 0 if counted else 1
    values = values * mask
    settings = {"axes": axes, "epsilon": 0.1, "centred": centred}

    def norm(values, scale, bias):
        return normalize(values, scale, bias if centred else None, mask=mask if counted else None, **settings)

    made = norm(values, scale, bias)
    # float32 sums of 20 terms
    np.testing.assert_allclose(made, twin(values, scale, bias, mask=mask, **settings), rtol=1e-5, atol=1e-5)
    loss = jax.jit(jax.grad(lambda *a: (norm(*a) * weights).sum(), (0, 1, 2)))
    exact = [a.astype(np.float64) for a in (values, scale, bias)]
    for which, gradient in enumerate(loss(values, scale, bias)):
        for index in np.ndindex(exact[which].shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in exact]
                moved[which][index] += step
                sides.append((twin(*moved, mask=mask, **settings) * weights).sum())
            # float32 rounding of the gradient; the difference's own error is 1e-9
            assert gradient[index] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-5)


def test_tiny_values_far_from_zero_keep_their_variance():
    values = (1.0 + 1e-3 * np.random.default_rng(0).normal(size=(4, 64))).astype(np.float32)
    made = normalize(values, jnp.ones((1, 64)), jnp.zeros((1, 64)), axes=(1,), epsilon=1e-12)
    np.testing.assert_allclose(np.std(made, axis=1), 1, rtol=1e-3)  # a difference of means would lose all but a digit


def test_bfloat16_statistics_are_float32():
    values = jnp.asarray(100 + np.random.default_rng(0).normal(size=(4, 512)), jnp.bfloat16)
    made = normalize(values, jnp.ones((1, 512)), jnp.zeros((1, 512)), axes=(1,), epsilon=1e-6)
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


def test_rms_norm_has_a_scale_and_no_bias():
    values = draw((3, 4, 5), (1,))[0]
    model = RMSNorm((1,), 1e-6)
    variables = jax.tree.map(np.asarray, model.init(jax.random.key(0), values))
    assert list(variables["params"]) == ["scale"]
    np.testing.assert_array_equal(variables["params"]["scale"], np.ones(4))
    made = model.apply(variables, values)
    np.testing.assert_allclose(np.square(made).mean(axis=1), 1, rtol=1e-4)  # epsilon over a mean square near 1


@pytest.mark.parametrize("masked", [False, True])
def test_a_norm_over_a_single_entry_has_no_gradient(masked):
    """Not even the rounding of a product, which one over the root of epsilon would make a million times as large."""
    random = np.random.default_rng(0)
    values, scale, pull = (random.normal(size=shape).astype(np.float32) for shape in ((64, 3), (1, 3), (64, 3)))
    mask = np.array([[0, 1, 0]], np.float32) if masked else None
    values, scale, pull = (leaf if masked else leaf[:, :1] for leaf in (values, scale, pull))
    values = values if mask is None else values * mask

    @jax.jit
    def run(values, scale):
        made = normalize(values, scale, jnp.zeros_like(scale), axes=(1,), epsilon=1e-12, mask=mask)
        return (made * pull).sum(), made

    (_, made), gradients = jax.value_and_grad(run, (0, 1), has_aux=True)(values, scale)
    assert not np.any(made)
    assert not any(np.any(leaf) for leaf in gradients)


def test_a_root_mean_square_over_a_single_entry_is_its_sign():
    made = normalize(jnp.array([[2.0], [-3.0]]), jnp.ones((1, 1)), axes=(1,), epsilon=1e-12, centred=False)
    np.testing.assert_allclose(made, [[1.0], [-1.0]], rtol=1e-6)
