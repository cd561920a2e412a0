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
from wukong_jax.models import xdeepfm
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {"bottom_hidden": [5], "cin_maps": [4, 6, 3], "deep_hidden": [6, 5], "head_output_scale": 1.0}
TINY = {**SMALL, "cin_maps": [2, 3]}
RELU, SPLIT = {"cin_activation": "relu"}, {"cin_split": True}
VARIANTS = {
    "plain": {},
    "relu": RELU,
    "split": SPLIT,
    "relu_split": {**RELU, **SPLIT},
    "one_layer": {"cin_maps": [5]},
    "one_relu_layer": {"cin_maps": [5], **RELU},
    "more_maps_than_vectors": {"cin_maps": [8, 9]},
    "no_deep": {"deep_hidden": []},
    "linear_bottom_no_biases": {"bottom_output_activation": "none", "mlp_biases": False},
    "norms": {"embedding_norm": True, "mlp_norm": "layer"},
}


def cin(vectors, params, options):
    """Computes every product of every pair of vectors; returns, by layer, the sums of the maps that the logits read."""
    last, sums = vectors, []
    for layer, count in enumerate(options.cin_maps):
        kernel, made = params[f"kernel_{layer}"], np.zeros((count, vectors.shape[1]))
        for h in range(count):
            for i, left in enumerate(last):
                for j, right in enumerate(vectors):
                    made[h] += kernel[i * len(vectors) + j, h] * left * right
        if options.cin_activation == "relu":
            made = np.maximum(made, 0)
        halved = options.cin_split and layer < len(options.cin_maps) - 1
        last = made[: count // 2] if halved else made
        sums.append((made[count // 2 :] if halved else made).sum(axis=1))
    return sums


def twin(dense, embeddings, mask, params, options):
    """Computes xDeepFM for one row."""
    vectors = baseline_twin.input_vectors(dense, embeddings, mask, params, options)
    flat = vectors.reshape(-1)
    deep = wukong_twin.mlp(flat, params["deep"]) if options.deep_hidden else []
    return wukong_twin.mlp(np.concatenate([flat, *cin(vectors, params["cin"], options), deep]), params["head"])


@pytest.mark.parametrize(
    ("variant", "dense_features", "tokens"),
    [*((variant, 3, 5) for variant in VARIANTS), ("plain", 0, 5), ("relu_split", 0, 5), ("plain", 0, 1)],
)
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    # float32 rounding (1e-7) through at most ten sums of under 60 terms and three norms
    assert_equals_twin(xdeepfm.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=2e-5)


@pytest.mark.parametrize(("left", "right"), [(5, 3), (3, 5), (4, 4)])
def test_combined_pairs_their_gradients_and_their_sums_equal_one_contraction(left, right):
    random = np.random.default_rng(0)
    shapes = (left, 6), (right, 6), (left, right, 7)
    arrays = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    exact = [array.astype(np.float64) for array in arrays]
    made, pull = jax.vjp(xdeepfm.combine_pairs, *arrays)
    pairs = np.einsum("ir,jr,ijh->hr", *exact)
    # float32 sums of at most 120 terms
    np.testing.assert_allclose(made, pairs, rtol=1e-5, atol=2e-5)
    assert_products_equal(pull(made), contract_gradients(*exact, pairs))
    rows = [array.T[None] for array in arrays[:2]]
    np.testing.assert_allclose(xdeepfm.combine_dots(*rows, arrays[2])[0], pairs.sum(axis=1), rtol=1e-5, atol=1e-4)


def test_combined_own_pairs_equal_pairs_of_two_equal_lists():
    random = np.random.default_rng(0)
    vectors, kernel = (random.normal(size=shape).astype(np.float32) for shape in ((5, 6), (5, 5, 7)))
    exact = vectors.astype(np.float64), vectors.astype(np.float64), kernel.astype(np.float64)
    made, pull = jax.vjp(xdeepfm.combine_own_pairs, vectors, kernel)
    pairs = np.einsum("ir,jr,ijh->hr", *exact)
    np.testing.assert_allclose(made, pairs, rtol=1e-5, atol=2e-5)  # as above
    left, right, of_kernel = contract_gradients(*exact, pairs)
    assert_products_equal(pull(made), (left + right, of_kernel))


def contract_gradients(left, right, kernel, gradient):
    """Returns the gradients of every operand of the contraction."""
    return (
        np.einsum("jr,ijh,hr->ir", right, kernel, gradient),
        np.einsum("ir,ijh,hr->jr", left, kernel, gradient),
        np.einsum("ir,jr,hr->ijh", left, right, gradient),
    )


def assert_products_equal(found, expected):
    for one, exact in zip(found, expected, strict=True):
        # float32 sums of at most 70 terms of up to 100
        np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("options", [{}, SPLIT, RELU])
def test_layer_k_is_of_order_k_plus_one(options):
    """Doubling every vector multiplies its sums by 2 ** (k + 1), exactly: powers of two do not round."""
    shape = ModelShape(0, 3, 4, 1)
    built = xdeepfm.build({**SMALL, **options}, shape).options
    network = xdeepfm.CompressedInteractionNetwork(built.cin_maps, built.cin_activation, built.cin_split)
    vectors = np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32)
    shapes = jax.eval_shape(lambda key: network.init(key, vectors), jax.random.key(0))
    random = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    once, twice = (np.asarray(network.apply(variables, scale * vectors)) for scale in (1, 2))
    sizes = [2, 3, 3] if built.cin_split else [4, 6, 3]
    orders = np.repeat([2, 3, 4], sizes)
    np.testing.assert_array_equal(twice, once * 2.0**orders)
    assert np.abs(once).max(axis=0).min() > 0.1 or built.cin_activation == "relu"


@pytest.mark.parametrize(
    ("options", "cin_macs", "sums"),
    [
        # n = 6 vectors of D = 4; 5 and 8 maps for the next layer, 3 for the logits
        ({"cin_maps": [5, 8, 3]}, 4 * (6 * 6 * 5 + 5 * 6 * 8) + 8 * 6 * (4 + 3), 5 + 8 + 3),
        ({"cin_maps": [3]}, 6 * 6 * (4 + 3), 3),
        ({"cin_maps": [5, 3], **RELU}, 4 * (6 * 6 * 5 + 5 * 6 * 3), 5 + 3),
        ({"cin_maps": [4, 8, 3], **SPLIT}, 6 * 6 * (4 * 2 + 4 + 2) + 2 * 6 * (4 * 4 + 4 + 4) + 4 * 6 * (4 + 3), 9),
        ({"cin_maps": [4, 8, 3], **SPLIT, **RELU}, 4 * (6 * 6 * 4 + 2 * 6 * 8 + 4 * 6 * 3), 9),
    ],
)
def test_count_equals_its_closed_form(options, cin_macs, sums):
    shape = ModelShape(3, 5, 4, 2)
    model = xdeepfm.build({"bottom_hidden": [7], "deep_hidden": [6, 9], **options}, shape)
    cost = count_cost(model, shape)
    mlps = 3 * 7 + 7 * 4 + 6 * 4 * 6 + 6 * 9 + (6 * 4 + sums + 9) * 2
    assert cost.forward_macs_per_example == mlps + cin_macs
    assert cost.train_flops_per_example == 6 * (mlps + cin_macs) - 2 * 3 * 7  # raw columns need no gradient
    maps, fed, cin_weights = options["cin_maps"], 6, 0
    for count in maps:
        cin_weights += 6 * fed * count
        fed = count // 2 if "cin_split" in options else count
    assert cost.dense_parameters == mlps + cin_weights + 7 + 4 + 6 + 9 + 2


def test_count_agrees_with_xla():
    """XLA counts the multiply-adds around the CIN's products too, two for each H_k products of n."""
    shape = ModelShape(13, 15, 16, 1)
    assert_cost_agrees_with_xla(xdeepfm.build({"cin_maps": [40, 40]}, shape), shape)


@pytest.mark.parametrize(
    ("options", "widest"),
    [
        ({"cin_maps": [4, 5, 3]}, 6),  # maps or vectors that a layer multiplies with the 6 vectors
        ({"cin_maps": [8, 5, 3]}, 8),
        ({"cin_maps": [16, 10, 3], **SPLIT}, 8),
        ({"cin_maps": [4, 8, 3]}, 6),  # the last layer forms no products,
        ({"cin_maps": [4, 8, 3], **RELU}, 8),  # but before a ReLU
        ({"cin_maps": [3]}, 0),
    ],
)
def test_the_widest_products_of_pairs_are_known(options, widest):
    model = xdeepfm.build({**SMALL, **options}, ModelShape(3, 5, 4, 1))
    assert model.pair_row_bytes == 4 * widest * 6 * 4


def test_absent_tokens_reach_neither_logits_nor_gradients():
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(xdeepfm.build({**TINY, **SPLIT}, shape), shape)


def test_parts_start_at_their_set_sizes():
    """Kernels of fan-in scale keep the products' mean square through a layer; logits start near zero."""
    shape = ModelShape(0, 6, 4, 2)
    inputs = make_inputs(shape, rows=64)
    model = xdeepfm.build({"cin_maps": [64], "deep_hidden": [16]}, shape)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    # 2304 draws: known to 1.5 %, five times that allowed
    assert np.std(variables["params"]["cin"]["kernel_0"]) == pytest.approx(1 / 6, rel=0.08)
    # 0.01 of values near 0.5 to 1, a Gaussian's largest of 128
    assert 0 < np.abs(model.apply(variables, inputs, train=False).logits).max() < 0.06


def test_kernels_before_a_relu_make_up_for_it():
    network = xdeepfm.CompressedInteractionNetwork((64,), "relu", False)
    params = jax.jit(network.init)(jax.random.key(0), np.ones((1, 6, 2), np.float32))["params"]
    assert np.std(params["kernel_0"]) == pytest.approx(2**0.5 / 6, rel=0.08)


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "deep_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(xdeepfm.build, TINY, place, ModelShape(3, 6, 4, 1))


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(xdeepfm.build, TINY, ModelShape(3, 6, 8, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cin_map": [4]}, "did you mean 'cin_maps'"),
        ({"cin_maps": []}, r"cin_maps = \[\]: at least one layer"),
        ({"cin_maps": [4, 0]}, r"cin_maps = \[4, 0\]: must be all at least 1"),
        ({"cin_maps": [5, 4], "cin_split": True}, r"cin_maps = \[5, 4\]: cin_split halves"),
        ({"cin_maps": [4], "cin_split": True}, "cin_split = True: has no effect on a single CIN layer"),
        ({"cin_activation": "tanh"}, "'none', 'relu'"),
        ({"deep_hidden": [0]}, r"deep_hidden = \[0\]"),
        ({"deep_dropout": 1.0}, "deep_dropout = 1.0"),
        ({"deep_hidden": [], "deep_dropout": 0.1}, "deep_dropout = 0.1: has no effect"),
        ({"deep_hidden": [], "mlp_norm": "layer"}, "mlp_norm = 'layer': has no effect without hidden layers"),
        ({"head_output_scale": -1}, "head_output_scale = -1"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(xdeepfm.build, options, word, ModelShape(3, 6, 4, 1))


def test_an_odd_last_layer_splits_nothing_and_stays():
    xdeepfm.build({"cin_maps": [4, 5], "cin_split": True}, ModelShape(3, 6, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        "deep_hidden": [8],
        "deep_dropout": 0.3,
        "cin_maps": [4, 6],
        **RELU,
        **SPLIT,
    }
    assert_no_model_option_is_idle(
        xdeepfm.build, xdeepfm.XDeepFMOptions, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1)
    )
