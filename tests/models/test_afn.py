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
from wukong_jax.errors import UserError
from wukong_jax.models import afn
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {"bottom_hidden": [5], "log_neurons": 3, "afn_hidden": [6], "deep_hidden": [5, 4], "head_output_scale": 1.0}
NO_NORMS = {"log_norm": False, "exp_norm": False}
VARIANTS = {
    "plus": {},
    "plain": {"deep_hidden": []},
    "no_log_norm": {"log_norm": False},
    "no_exp_norm": {"exp_norm": False},
    # the clip and the exponents are such that products stay below 1e4
    "no_norms": {**NO_NORMS, "deep_hidden": [], "log_epsilon": 0.1},
    "linear": {"afn_hidden": [], "deep_hidden": []},
    "norms": {"embedding_norm": True, "mlp_norm": "layer"},
    "no_biases": {"mlp_biases": False},
    "relu_bottom": {"bottom_output_activation": "relu"},
}


def norm(values, params):
    return wukong_twin.layer_norm(
        values, afn.TRANSFORMATION_NORM_EPSILON, params["scale"], params["bias"], tuple(range(values.ndim))
    )


def transform(vectors, params, options):
    """Computes the products of one row [n, width], one at a time."""
    logarithms = np.log(np.maximum(np.abs(vectors), options.log_epsilon))
    if options.log_norm:
        logarithms = norm(logarithms, params["log_norm"])
    exponents = params["exponents"]["kernel"]
    products = np.array(
        [
            np.exp(sum(exponents[token, neuron] * logarithms[token, column] for token in range(len(vectors))))
            for column in range(vectors.shape[1])
            for neuron in range(options.log_neurons)
        ]
    )
    return norm(products, params["exp_norm"]) if options.exp_norm else products


def twin(dense, embeddings, mask, params, options):
    """Computes AFN+ for one row."""
    vectors = baseline_twin.input_vectors(dense, embeddings, mask, params, options)
    width = vectors.shape[1] // 2 if options.deep_hidden else vectors.shape[1]
    made = wukong_twin.mlp(transform(vectors[:, :width], params["transformation"], options), params["afn"])
    if not options.deep_hidden:
        return made
    deep = wukong_twin.mlp(vectors[:, width:].reshape(-1), params["deep"])
    return params["branch_weights"][0] * made + params["branch_weights"][1] * deep


SIZES = [(name, 3, 5) for name in VARIANTS] + [
    (name, *sizes) for name in ("plus", "norms") for sizes in ((0, 5), (3, 1))
]


@pytest.mark.parametrize(("variant", "dense_features", "tokens"), SIZES)
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    # float32 rounding (1e-7) of sums of up to 60 (logarithms of 1e-5), which exp turns into relative errors
    assert_equals_twin(afn.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=5e-5)


def transformation(neurons, **options):
    return afn.LogarithmicTransformation(neurons, **{"epsilon": 1e-5, **NO_NORMS, "exponent_scale": 0.1, **options})


def test_integer_exponents_make_cross_products_of_their_order():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(4, 3, 2)).astype(np.float32)
    exponents = np.array([[1, 0, -1], [0, 0, 0], [2, 0, 1]], np.float32)  # [tokens, neurons]
    made = transformation(3).apply({"params": {"exponents": {"kernel": exponents}}}, vectors).reshape(4, 2, 3)
    sizes = np.abs(vectors)
    # float32 logarithms below 10, a few roundings each
    np.testing.assert_allclose(made[:, :, 0], sizes[:, 0] * sizes[:, 2] ** 2, rtol=1e-5)
    np.testing.assert_allclose(made[:, :, 1], 1.0, rtol=1e-6)
    np.testing.assert_allclose(made[:, :, 2], sizes[:, 2] / sizes[:, 0], rtol=1e-5)


@pytest.mark.parametrize("norms", [{}, {"log_norm": True, "exp_norm": True}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_finite_at_any_size(norms, dtype):
    """Rows of like values, the second with one of unit size; exponents far larger than any start."""
    module = transformation(3, **norms)
    variables = {"params": {"exponents": {"kernel": np.full((4, 3), -9.0, np.float32)}}}
    if norms:
        for name, axes in (("log_norm", (4, 2)), ("exp_norm", (6,))):
            variables["params"][name] = {"scale": np.ones(axes, np.float32), "bias": np.ones(axes, np.float32)}

    @jax.jit
    def values_and_gradients(vectors):
        made, pull = jax.vjp(module.apply, variables, vectors.astype(dtype))
        return made, pull(made)

    for size in (0.0, 1e-30, 1e-5, 1e30):
        vectors = np.full((2, 4, 2), size, np.float32)
        vectors[1, 0, 0] = 1.0
        for leaf in jax.tree.leaves(values_and_gradients(vectors)):
            assert np.isfinite(np.asarray(leaf, np.float32)).all(), size


def test_values_below_the_clip_count_as_it_and_get_no_gradient():
    variables = {"params": {"exponents": {"kernel": np.ones((2, 1), np.float32)}}}

    def total(vectors):
        return transformation(1, epsilon=0.5).apply(variables, vectors).sum()

    vectors = np.array([[[0.1, -0.4], [2.0, -3.0]]], np.float32)
    made, gradient = jax.jit(jax.value_and_grad(total))(vectors)
    assert made == pytest.approx(0.5 * 2 + 0.5 * 3, rel=1e-6)
    np.testing.assert_allclose(gradient, [[[0, 0], [0.5, -0.5]]], rtol=1e-6)


def test_each_half_of_the_width_reaches_one_branch():
    """Two tables: what trains one branch alone leaves the other half of every embedding alone."""
    shape = ModelShape(0, 5, 6, 1)
    model = afn.build(SMALL, shape)
    inputs = make_inputs(shape)
    params = draw_parameters(model, inputs)["params"]

    @jax.jit
    def gradient(weights):
        def logit(embeddings):
            variables = {"params": {**params, "branch_weights": weights}}
            return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits.sum()

        return jax.grad(logit)(inputs.embeddings)

    first, second = (np.asarray(gradient(np.array(weights, np.float32))) for weights in ([[1], [0]], [[0], [1]]))
    assert np.all(first[:, :, 3:] == 0)
    assert np.all(second[:, :, :3] == 0)
    assert np.abs(first[:, :, :3]).max() > 0
    assert np.abs(second[:, :, 3:]).max() > 0


def test_count_is_that_of_bars_on_frappe():
    """4,482,205 are printed for AFN+ with twice 5,389 embeddings of 10 numbers (FuxiCTR 1.1.0, AFN+_frappe_x1).

    Left out here: the two batch norms' parameters, two for each of 10 fields and 1000 neurons, and the last bias.
    """
    options = {"log_neurons": 1000, "afn_hidden": [400], "deep_hidden": [400, 400, 400]}
    shape = ModelShape(0, 10, 20, 1)
    cost = count_cost(afn.build({**options, **NO_NORMS}, shape), shape)
    assert cost.dense_parameters == 4_482_205 - 2 * 10 * 5389 - 2 * (10 + 1000) - 1


@pytest.mark.parametrize("deep", [[], [9]])
def test_count_equals_its_closed_form(deep):
    shape = ModelShape(3, 5, 4, 2)
    model = afn.build({"bottom_hidden": [7], "log_neurons": 8, "afn_hidden": [6], "deep_hidden": deep}, shape)
    cost = count_cost(model, shape)
    width = 2 if deep else 4
    bottom, exponents, over = 3 * 7 + 7 * 4, 6 * 8, 8 * width * 6 + 6 * 2
    beside = 6 * width * 9 + 9 * 2 if deep else 0
    biases = 7 + 4 + 6 + 2 + (9 + 2 if deep else 0)
    norms = 2 * width * (6 + 8)
    assert cost.dense_parameters == bottom + exponents + over + beside + biases + norms + (4 if deep else 0)
    macs = bottom + exponents * width + over + beside
    assert cost.forward_macs_per_example == macs
    assert cost.train_flops_per_example == 6 * macs - 2 * 3 * 7  # no gradient to the dense columns


def test_count_agrees_with_xla():
    """XLA counts about a dozen operations for each product and its norm, against the 16 + 400 MACs around it."""
    shape = ModelShape(13, 15, 8, 1)
    assert_cost_agrees_with_xla(afn.build({"log_neurons": 50}, shape), shape, most=1.06)


@pytest.mark.parametrize("options", [{}, {"deep_hidden": []}, {**NO_NORMS, "log_epsilon": 1e-2}])
def test_absent_tokens_reach_neither_logits_nor_gradients(options):
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(afn.build({**SMALL, **options}, shape), shape)


@pytest.mark.parametrize("deep", [[16], []])
@pytest.mark.parametrize("scale", [0.5, 1e-3])
def test_parts_start_at_their_set_sizes(deep, scale):
    """Whatever the embeddings' scale, a product is moved by its exponents and the logits are near zero."""
    shape = ModelShape(0, 16, 8, 2)
    inputs = make_inputs(shape, rows=64, scale=scale)
    inputs.token_mask[:] = 1
    model = afn.build({"afn_hidden": [16], "log_neurons": 50, "deep_hidden": deep, "exp_norm": False}, shape)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    made, state = model.apply(
        variables, inputs, train=False, capture_intermediates=lambda m, _: m.name == "transformation"
    )
    assert 0 < np.abs(made.logits).max() < 0.1
    sums = np.log(state["intermediates"]["transformation"]["__call__"][0])
    # 16 logarithms of unit size by exponents of 0.1: 800 draws give a size to a tenth, means of fields a little more
    assert np.std(sums) == pytest.approx(0.1 * 16**0.5, rel=0.2)


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "afn_dropout", "deep_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(afn.build, SMALL, place, ModelShape(3, 6, 4, 1))


@pytest.mark.parametrize(("options", "dense_features"), [({}, 3), ({"deep_hidden": []}, 0)])
def test_bfloat16_stays_near_float32(options, dense_features):
    """Embeddings' roundings are relative, whatever the logarithm; a dense vector's are not, see the transformation."""
    shape = ModelShape(dense_features, 6, 8, 2)
    assert_bfloat16_stays_near_float32(afn.build, {**SMALL, **options}, shape)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"log_neuron": 5}, "did you mean 'log_neurons'"),
        ({"log_neurons": 0}, "log_neurons = 0: must be at least 1"),
        ({"log_epsilon": 0.0}, "log_epsilon = 0.0: must be at least 1e-12"),
        ({"log_epsilon": 1.0}, "log_epsilon = 1.0: must be at least 1e-12 and below 1"),
        ({"exponent_scale": 0.0}, "exponent_scale = 0.0: must be above 0"),
        ({"afn_hidden": [0]}, r"afn_hidden = \[0\]"),
        ({"deep_hidden": [-1]}, r"deep_hidden = \[-1\]"),
        ({"afn_hidden": [], "afn_dropout": 0.1}, "afn_dropout = 0.1: has no effect"),
        ({"deep_hidden": [], "deep_dropout": 0.1}, "deep_dropout = 0.1: has no effect"),
        ({"afn_dropout": 1.0}, "afn_dropout = 1.0"),
        ({"afn_hidden": [], "deep_hidden": [], "mlp_norm": "layer"}, "mlp_norm = 'layer': has no effect"),
        ({"head_output_scale": -1}, "head_output_scale = -1"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(afn.build, options, word, ModelShape(3, 6, 4, 1))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"width = 5: AFN\+ gives half"):
        afn.build({}, ModelShape(3, 6, 5, 1))
    afn.build({"deep_hidden": []}, ModelShape(3, 6, 5, 1))
    with pytest.raises(UserError, match="log_norm = True: one value"):
        afn.build({}, ModelShape(0, 1, 2, 1))
    with pytest.raises(UserError, match="exp_norm = True: one value"):
        afn.build({"log_neurons": 1}, ModelShape(0, 2, 2, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        "bottom_output_activation": "relu",
        **{"log_neurons": 4, "log_epsilon": 1e-7, "log_norm": False, "exp_norm": False, "exponent_scale": 0.2},
        **{"afn_hidden": [8], "afn_dropout": 0.3, "deep_hidden": [8], "deep_dropout": 0.3},
    }
    assert_no_model_option_is_idle(afn.build, afn.AFNOptions, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1))
