import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import wukong_twin
from tests.models.random_parameters import draw_parameters
from wukong_jax.errors import UserError
from wukong_jax.layers.mlp import MLP
from wukong_jax.models.shape import ModelShape


def init(model, inputs):
    return jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("biases", [True, False])
def test_values_equal_the_numpy_twin(hidden, biases):
    random = np.random.default_rng(0)
    inputs = random.normal(size=(3, 6)).astype(np.float32)
    model = MLP(hidden, 2, biases=biases)
    variables = draw_parameters(model, inputs, noise=1.0)
    made = model.apply(variables, inputs, train=False)
    expected = [wukong_twin.mlp(row.astype(np.float64), variables["params"]) for row in inputs]
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)  # float32 sums of under 10 terms


def test_output_scale_sets_the_starting_size():
    inputs = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)
    for scale in (1.0, 0.1):
        model = MLP((256, 256), 64, output_scale=scale)
        made = model.apply(init(model, inputs), inputs, train=False)
        # He's hidden layers keep the mean square, so only sampling (256 wide) moves the size
        assert np.sqrt(np.mean(made**2)) == pytest.approx(scale, rel=0.25)
    model = MLP((4,), 2, output_scale=0.0)
    assert not np.any(model.apply(init(model, inputs), inputs, train=False))


def test_dropout_keeps_the_mean_and_only_acts_in_training():
    inputs = np.ones((4096, 1), np.float32)
    model = MLP((1,), 1, dropout=0.25, biases=False)
    variables = {"params": {"hidden_0": {"kernel": jnp.ones((1, 1))}, "output": {"kernel": jnp.ones((1, 1))}}}
    made = model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(made), [0, 4 / 3], rtol=1e-6)
    assert abs(float(made.mean()) - 1) < 0.05  # the mean's own deviation is 0.009
    np.testing.assert_array_equal(model.apply(variables, inputs, train=False), inputs)


@pytest.mark.parametrize(
    ("sizes", "word"),
    [
        ({"width": 0}, "width = 0"),
        ({"tokens": 0, "dense_features": 0}, "tokens = 0"),
        ({"objectives": 0}, "objectives = 0"),
        ({"compute_dtype": "float16"}, "compute_dtype = 'float16'"),
    ],
)
def test_impossible_shapes_are_refused(sizes, word):
    with pytest.raises(UserError, match=word):
        ModelShape(**{"dense_features": 3, "tokens": 6, "width": 4, "objectives": 1, **sizes})
