import jax
import numpy as np
import pytest

from tests.models import baseline_twin, wukong_twin
from tests.models.baseline_twin import make_inputs
from tests.models.model_checks import (
    VECTOR_MODEL_CHANGES,
    assert_absent_tokens_reach_nothing,
    assert_bfloat16_stays_near_float32,
    assert_cost_agrees_with_xla,
    assert_dropout_acts_in_training_only,
    assert_equals_twin,
    assert_no_model_option_is_idle,
    assert_refused_by_name,
)
from tests.models.random_parameters import draw_parameters
from wukong_jax.models import dnn
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {"bottom_hidden": [5], "deep_hidden": [6, 5], "head_output_scale": 1.0}
VARIANTS = {
    "plain": {},
    "one_layer": {"deep_hidden": [7]},
    "linear": {"deep_hidden": []},
    "linear_bottom": {"bottom_output_activation": "none"},
    "no_biases": {"mlp_biases": False},
    "norms": {"embedding_norm": True, "mlp_norm": "layer"},
}


def twin(dense, embeddings, mask, params, options):
    """Computes the network for one row."""
    vectors = baseline_twin.input_vectors(dense, embeddings, mask, params, options)
    return wukong_twin.mlp(vectors.reshape(-1), params["deep"])


@pytest.mark.parametrize(
    ("variant", "dense_features", "tokens"),
    [*((variant, 3, 5) for variant in VARIANTS), ("plain", 0, 5), ("norms", 0, 5), ("plain", 3, 0)],
)
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    # float32 rounding (1e-7) through at most six sums of under 30 terms and three norms
    assert_equals_twin(dnn.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=2e-5)


@pytest.mark.parametrize("dense_features", [0, 3])
def test_count_equals_its_closed_form(dense_features):
    shape = ModelShape(dense_features, 5, 4, 2)
    cost = count_cost(dnn.build({"bottom_hidden": [7], "deep_hidden": [6, 8]}, shape), shape)
    vectors = 5 + (dense_features > 0)
    kernels = vectors * 4 * 6 + 6 * 8 + 8 * 2
    biases = 6 + 8 + 2
    if dense_features:
        kernels, biases = kernels + 3 * 7 + 7 * 4, biases + 7 + 4
    assert cost.forward_macs_per_example == kernels
    assert cost.dense_parameters == kernels + biases
    assert cost.train_flops_per_example == 6 * kernels - 2 * dense_features * 7  # raw columns need no gradient


def test_count_agrees_with_xla():
    shape = ModelShape(13, 26, 16, 1)
    assert_cost_agrees_with_xla(dnn.build({}, shape), shape)


def test_absent_tokens_reach_neither_logits_nor_gradients():
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(dnn.build(SMALL, shape), shape)


def test_logits_start_near_zero_by_default():
    shape = ModelShape(0, 6, 4, 2)
    inputs = make_inputs(shape, rows=64)
    model = dnn.build({"deep_hidden": [16]}, shape)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    logits = model.apply(variables, inputs, train=False).logits
    # 0.01 of values near 0.5 to 1, a Gaussian's largest of 128
    assert 0 < np.abs(logits).max() < 0.06


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "deep_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(dnn.build, SMALL, place, ModelShape(3, 6, 4, 1))


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(dnn.build, SMALL, ModelShape(3, 6, 8, 2))


def test_one_layer_is_linear_and_hidden_ones_are_not():
    shape = ModelShape(0, 4, 4, 1)
    inputs = make_inputs(shape)
    for hidden in ([], [6]):
        model = dnn.build({**SMALL, "deep_hidden": hidden}, shape)
        variables = draw_parameters(model, inputs)
        at = [
            model.apply(variables, inputs._replace(embeddings=s * inputs.embeddings), train=False).logits
            for s in (-1, 0, 1)
        ]
        bent = np.abs(at[0] + at[2] - 2 * at[1]).max()
        assert bent < 1e-6 if not hidden else bent > 1e-2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"deep_hiden": [4]}, "did you mean 'deep_hidden'"),
        ({"deep_hidden": [4, 0]}, r"deep_hidden = \[4, 0\]"),
        ({"deep_dropout": 1.0}, "deep_dropout = 1.0"),
        ({"deep_hidden": [], "deep_dropout": 0.1}, "deep_dropout = 0.1: has no effect without deep_hidden"),
        ({"deep_hidden": [], "mlp_norm": "layer"}, "mlp_norm = 'layer': has no effect without hidden layers"),
        ({"head_output_scale": -1}, "head_output_scale = -1"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(dnn.build, options, word, ModelShape(3, 6, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        "deep_hidden": [8],
        "deep_dropout": 0.3,
    }
    assert_no_model_option_is_idle(dnn.build, dnn.DNNOptions, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1))
