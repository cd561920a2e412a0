import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import baseline_twin, wukong_twin
from tests.models.baseline_twin import make_inputs
from tests.models.model_checks import (
    VECTOR_MODEL_CHANGES,
    assert_absent_tokens_reach_nothing,
    assert_bfloat16_stays_near_float32,
    assert_dropout_acts_in_training_only,
    assert_equals_twin,
    assert_no_model_option_is_idle,
    assert_refused_by_name,
)
from tests.models.random_parameters import draw_parameters
from wukong_jax.errors import UserError
from wukong_jax.models import dlrm
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {"bottom_hidden": [5], "top_hidden": [6, 5], "head_output_scale": 1.0}
VARIANTS = {
    "plain": {},
    "linear_bottom": {"bottom_output_activation": "none"},
    "no_biases": {"mlp_biases": False},
    "pair_norm": {"pair_norm": True},
    "all_norms": {"pair_norm": True, "embedding_norm": True, "mlp_norm": "layer"},
    "linear_everywhere": {"bottom_hidden": [], "top_hidden": []},
}


def twin(dense, embeddings, mask, params, options):
    """Computes DLRM for one row."""
    vectors = baseline_twin.input_vectors(dense, embeddings, mask, params, options)
    made = vectors[0] if len(dense) else np.zeros(0)
    dots = np.array([sum(left * right) for i, left in enumerate(vectors) for right in vectors[:i]])
    if options.pair_norm:
        norm = params["pair_norm"]
        dots = wukong_twin.layer_norm(dots, dlrm.PAIR_NORM_EPSILON, norm["scale"], norm["bias"], 0)
    return wukong_twin.mlp(np.concatenate([made, dots]), params["top"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dense_features", "tokens"), [(3, 5), (0, 5), (3, 2)])
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    # float32 rounding (1e-7) through at most six sums of under 20 terms and two norms
    assert_equals_twin(dlrm.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=2e-5)


@pytest.mark.parametrize(("dense_features", "tokens"), [(3, 0), (3, 1), (0, 2)])
def test_few_vectors_make_a_model(dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=1)
    model = dlrm.build(SMALL, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs)
    vectors = tokens + (dense_features > 0)
    top_inputs = variables["params"]["top"]["hidden_0"]["kernel"].shape[0]
    assert top_inputs == vectors * (vectors - 1) // 2 + (4 if dense_features else 0)
    assert model.apply(variables, inputs, train=False).logits.shape == (4, 1)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_pair_dots_and_their_gradient_equal_loops(count):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3, count, 4)).astype(np.float32)
    pairs = [(i, j) for i in range(count) for j in range(i)]
    weights = random.normal(size=(3, len(pairs))).astype(np.float32)
    dots, gradient = np.zeros(weights.shape), np.zeros(vectors.shape)
    for row in range(3):
        for pair, (i, j) in enumerate(pairs):
            dots[row, pair] = vectors[row, i].astype(np.float64) @ vectors[row, j]
            gradient[row, i] += weights[row, pair] * vectors[row, j]
            gradient[row, j] += weights[row, pair] * vectors[row, i]
    made, pull = jax.vjp(dlrm.pair_dots, vectors)
    # float32 sums of 4 products, then of 6 vectors
    np.testing.assert_allclose(made, dots, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull(weights)[0], gradient, rtol=1e-5, atol=1e-5)


def test_pair_dots_gradient_scatters_nothing():
    """A scatter is what makes the gradient of an index slow on CPUs and TPUs."""
    vectors = jnp.ones((2, 5, 4))
    index = np.tril_indices(5, -1)

    def plain(vectors):
        return jnp.einsum("bnd,bmd->bnm", vectors, vectors)[:, index[0], index[1]]

    traced = [
        str(jax.make_jaxpr(jax.grad(lambda v, f=function: f(v).sum()))(vectors)) for function in (dlrm.pair_dots, plain)
    ]
    assert ["scatter" in text for text in traced] == [False, True]


def test_count_is_the_wukong_papers_on_criteo():
    """680,321 parameters and 4.62 MFLOP are printed (27 vectors, all 27 x 27 dots)."""
    shape = ModelShape(13, 26, 128, 1)
    cost = count_cost(dlrm.build({"bottom_hidden": [512, 256], "top_hidden": [512, 512]}, shape), shape)
    assert cost.dense_parameters == 680_321
    assert cost.train_flops_per_example == 4_616_960


@pytest.mark.parametrize(
    ("tokens", "width", "top", "tower_macs", "printed"),
    [
        (26, 128, [1024, 1024, 512, 256], 0, 14.74),
        (26, 64, [1024, 512, 256], 26 * 128 * 64, 8.95),
        (26, 32, [1024, 512, 256], 26 * 128 * 32, 7.93),
        (16, 128, [1024, 512, 256], 20 * 128 * 128, 8.75),  # ten towers of two columns; six of one pass through
    ],
)
def test_count_is_the_dmt_papers(tokens, width, top, tower_macs, printed):
    """Table 4 of arXiv 2403.00877, MFLOP of training a sample; the tower modules are added by hand."""
    shape = ModelShape(13, tokens, width, 1)
    cost = count_cost(dlrm.build({"bottom_hidden": [512, 256], "top_hidden": top}, shape), shape)
    assert round((cost.train_flops_per_example + 6 * tower_macs) / 1e6, 2) == printed


def test_count_agrees_with_xla_but_for_half_of_the_dots_gradient():
    """XLA also counts biases and activations, a few per value against hundreds of products that made it."""
    shape = ModelShape(13, 26, 32, 1)
    model = dlrm.build({}, shape)
    cost = count_cost(model, shape)
    inputs = make_inputs(shape, rows=256)
    variables = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))

    def logits(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits

    gradient = jax.value_and_grad(lambda v, e: logits(v, e).sum(), (0, 1))
    saved = 2 * 27 * 27 * 32
    for function, counted in (
        (logits, cost.forward_flops_per_example),
        (gradient, cost.train_flops_per_example - saved),
    ):
        analysis = jax.jit(function).lower(variables, inputs.embeddings).compile().cost_analysis()
        assert 0.99 < analysis["flops"] / 256 / counted < 1.03


def test_absent_tokens_reach_neither_logits_nor_gradients():
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(dlrm.build(SMALL, shape), shape)


@pytest.mark.parametrize("scale", [1e-2, 1e-3])
def test_pair_norm_keeps_the_dots_of_tiny_embeddings(scale):
    """Its epsilon must not swallow a variance of scale**4."""
    shape = ModelShape(0, 6, 8, 1)
    model = dlrm.build({**SMALL, "pair_norm": True}, shape)
    inputs = make_inputs(shape, rows=16, scale=1.0)
    inputs.token_mask[:] = 1
    variables = draw_parameters(model, inputs)
    full, tiny = (
        model.apply(variables, inputs._replace(embeddings=s * inputs.embeddings), train=False).logits
        for s in (1.0, scale)
    )
    # dots of 8 terms have a variance near 8 * scale**4, of which an epsilon of 1e-12 is at most an eighth
    np.testing.assert_allclose(tiny, full, rtol=0.2, atol=0.2 * np.std(full))


@pytest.mark.parametrize("activation", ["relu", "none"])
def test_parts_start_at_their_set_sizes(activation):
    shape = ModelShape(13, 6, 32, 2)
    inputs = make_inputs(shape, rows=256)
    options = {"bottom_output_activation": activation, "bottom_output_scale": 0.1, "bottom_hidden": [128]}
    model = dlrm.build({**options, "top_hidden": [32]}, shape)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    made, state = model.apply(variables, inputs, train=False, capture_intermediates=lambda m, _: m.name == "bottom")
    assert np.abs(made.logits).max() < 0.02  # head_output_scale 0.01 of a vector near 0.1 and dots near 1
    vector = np.asarray(state["intermediates"]["bottom"]["__call__"][0])
    vector = np.maximum(vector, 0) if activation == "relu" else vector
    # dense columns have unit size; 32 columns of 128 inputs move the mean square by a quarter at most
    assert np.sqrt(np.mean(vector**2)) == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "top_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(dlrm.build, SMALL, place, ModelShape(3, 6, 4, 1))


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(dlrm.build, SMALL, ModelShape(3, 6, 8, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"top_hiden": [4]}, "did you mean 'top_hidden'"),
        ({"top_hidden": [4, 0]}, r"top_hidden = \[4, 0\]"),
        ({"bottom_hidden": [-1]}, r"bottom_hidden = \[-1\]"),
        ({"top_dropout": 1.0}, "top_dropout = 1.0"),
        ({"embedding_dropout": -0.1}, "embedding_dropout = -0.1"),
        ({"bottom_output_scale": 0}, "bottom_output_scale = 0"),
        ({"head_output_scale": -1}, "head_output_scale = -1"),
        ({"bottom_output_activation": "gelu"}, "'relu', 'none'"),
        ({"top_hidden": [], "mlp_norm": "layer"}, "mlp_norm = 'layer': has no effect without hidden layers"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(dlrm.build, options, word, ModelShape(3, 6, 4, 1))


def test_shapes_without_pairs_are_refused():
    with pytest.raises(UserError, match="tokens = 1: DLRM pairs vectors"):
        dlrm.build({}, ModelShape(0, 1, 4, 1))
    with pytest.raises(UserError, match="pair_norm = True: 2 vectors"):
        dlrm.build({"pair_norm": True}, ModelShape(3, 1, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        "top_hidden": [8],
        "top_dropout": 0.3,
        "pair_norm": True,
    }
    assert_no_model_option_is_idle(
        dlrm.build, dlrm.DLRMOptions, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1)
    )
