import numpy as np
import pytest

from tests.models.random_parameters import draw_parameters
from wukong_jax.errors import UserError
from wukong_jax.models import logistic_regression
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape


@pytest.mark.parametrize("dense_features", [0, 3])
@pytest.mark.parametrize("objectives", [1, 2])
def test_logits_are_the_sum_of_weights(dense_features, objectives):
    random = np.random.default_rng(0)
    shape = ModelShape(dense_features, 5, objectives, objectives)
    dense = random.normal(size=(4, dense_features)).astype(np.float32)
    embeddings = random.normal(size=(4, 5, objectives)).astype(np.float32)
    mask = (random.random((4, 5)) < 0.6).astype(np.float32)
    model = logistic_regression.build({}, shape)
    inputs = ModelInputs(dense, embeddings, mask, np.zeros(4, np.int32), {})
    variables = draw_parameters(model, inputs, noise=1.0)
    made = model.apply(variables, inputs, train=True)
    expected = np.zeros((4, objectives))
    for row in range(4):
        expected[row] = variables["params"]["bias"]
        for token in range(5):
            if mask[row, token]:
                expected[row] += embeddings[row, token]
        for column in range(dense_features):
            expected[row] += dense[row, column] * variables["params"]["dense"]["kernel"][column]
    np.testing.assert_allclose(made.logits, expected, rtol=1e-5, atol=1e-5)  # float32 sums of under 10 terms
    assert made.aux == {}


def test_widths_other_than_the_objectives_are_refused():
    with pytest.raises(UserError, match=r"width = 16: .* set the width to 1"):
        logistic_regression.build({}, ModelShape(3, 5, 16, 1))


def test_any_option_is_refused():
    with pytest.raises(UserError, match=r"config\.model\.options\.l2 = 0\.1: unknown key"):
        logistic_regression.build({"l2": 0.1}, ModelShape(3, 5, 1, 1))
