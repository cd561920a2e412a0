import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import wukong_twin
from tests.models.model_checks import assert_no_model_option_is_idle
from tests.models.random_parameters import draw_parameters
from wukong_jax.errors import UserError
from wukong_jax.models import wukong
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape

SMALL = {
    "layers": 2,
    "fmb_tokens": 3,
    "lcb_tokens": 2,
    "rank": 4,
    "fmb_hidden": [7],
    "head_hidden": [6],
    "bottom_hidden": [5],
    "dense_tokens": 2,
    "head_output_scale": 1.0,
}
VARIANTS = {
    "static": {},
    "full": {"fm": "full", "rank": None},
    "attentive": {"fm": "attentive", "attention": {"tokens": 3, "hidden": [5]}},
    "norm_flat": {"norm": "flat"},
    "norm_none": {"norm": "none", "fm_norm": False},
    "relu_and_biases": {"fmb_output_activation": "relu", "token_biases": True},
    "no_biases": {"mlp_biases": False},
    "no_lcb_tokens": {"lcb_tokens": 0},
    "no_fmb": {"use_fmb": False},
    "no_lcb": {"use_lcb": False},
    "no_residual": {"use_residual": False},
    "fmb_only": {"use_residual": False, "use_lcb": False},
    "residual_same_count": {"fmb_tokens": 4, "lcb_tokens": 4},
    "deeper": {"layers": 3, "fmb_hidden": [6, 5], "head_hidden": []},
}


def make_inputs(shape, rows=4, scale=0.5, seed=0):
    random = np.random.default_rng(seed)
    dense = random.normal(size=(rows, shape.dense_features)).astype(np.float32)
    embeddings = (scale * random.normal(size=(rows, shape.tokens, shape.width))).astype(np.float32)
    mask = (random.random((rows, shape.tokens)) < 0.7).astype(np.float32)
    return ModelInputs(dense, embeddings, mask, np.zeros(rows, np.int32), {})


def init(model, inputs, seed=0):
    return jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(seed))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_numpy_twin(variant):
    shape = ModelShape(dense_features=3, tokens=6, width=4, objectives=2)
    model = wukong.build({**SMALL, **VARIANTS[variant]}, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs, noise=0.1)
    made = model.apply(variables, inputs, train=False)
    twin_params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    expected = wukong_twin.wukong(*(np.asarray(a, np.float64) for a in inputs[:3]), twin_params, model.options)
    assert made.logits.dtype == jnp.float32
    assert np.ptp(expected) > 1e-2  # rows differ, so equality says something
    # float32 rounding (1e-7) through three layers of sums of under 100 terms and two norms each
    np.testing.assert_allclose(made.logits, expected, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("dense_features", [0, 3])
def test_bottom_mlp_exists_only_with_dense_columns(dense_features):
    shape = ModelShape(dense_features, 6, 4, 1)
    variables = draw_parameters(wukong.build(SMALL, shape), make_inputs(shape))
    assert ("bottom" in variables["params"]) == (dense_features > 0)


def test_dense_columns_alone_make_a_model():
    shape = ModelShape(dense_features=3, tokens=0, width=4, objectives=1)
    model = wukong.build(SMALL, shape)
    inputs = make_inputs(shape)
    assert model.apply(draw_parameters(model, inputs), inputs, train=False).logits.shape == (4, 1)


@pytest.mark.parametrize(("tokens", "compressed"), [(5, []), (6, ["layer_0"])])
def test_residual_is_mapped_only_where_the_count_changes(tokens, compressed):
    shape = ModelShape(0, tokens, 4, 1)
    params = draw_parameters(wukong.build(SMALL, shape), make_inputs(shape))["params"]
    assert [name for name in params if "residual" in params[name]] == compressed
    for name in compressed:
        assert params[name]["residual"].shape == (tokens, 5)


def test_absent_tokens_do_not_reach_the_logits():
    shape = ModelShape(0, 6, 4, 1)
    model = wukong.build(SMALL, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs)
    mask = inputs.token_mask
    other = np.where(mask[:, :, None] == 1, inputs.embeddings, 1e3).astype(np.float32)
    first = model.apply(variables, inputs, train=False).logits
    second = model.apply(variables, inputs._replace(embeddings=other), train=False).logits
    np.testing.assert_array_equal(first, second)
    present = inputs._replace(embeddings=other, token_mask=np.ones_like(mask))
    everyone = model.apply(variables, present, train=False).logits
    assert np.abs(everyone - first).max() > 1e-3

    def loss(embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=False).logits.sum()

    gradient = jax.jit(jax.grad(loss))(inputs.embeddings)
    assert np.all(np.asarray(gradient)[mask == 0] == 0)
    assert np.all(np.abs(np.asarray(gradient)[mask == 1]).sum(-1) > 0)


def test_a_row_without_any_token_gives_finite_logits_and_gradients():
    shape = ModelShape(0, 6, 4, 1)
    model = wukong.build(SMALL, shape)
    inputs = make_inputs(shape)
    inputs.token_mask[0] = 0
    variables = draw_parameters(model, inputs)

    def loss(variables, embeddings):
        return (model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits ** 2).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(variables, inputs.embeddings)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_tokens_may_be_renumbered_with_their_weights():
    shape = ModelShape(0, 6, 4, 1)
    model = wukong.build({**SMALL, "layers": 1}, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs, noise=0.1)
    order = np.random.default_rng(3).permutation(6)
    layer = dict(variables["params"]["layer_0"])
    layer["lcb"], layer["residual"] = layer["lcb"][order], layer["residual"][order]
    block = dict(layer["fmb"])
    block["projection"] = block["projection"][order]
    # FM(X) is flattened as [K, N]
    flat = np.arange(4 * 6).reshape(4, 6)[:, order].reshape(-1)
    block["norm"] = {name: leaf[flat] for name, leaf in block["norm"].items()}
    hidden = {**block["mlp"]["hidden_0"], "kernel": block["mlp"]["hidden_0"]["kernel"][flat]}
    layer["fmb"] = {**block, "mlp": {**block["mlp"], "hidden_0": hidden}}
    moved = {"params": {**variables["params"], "layer_0": layer}}
    first = model.apply(variables, inputs, train=False).logits
    renumbered = inputs._replace(embeddings=inputs.embeddings[:, order], token_mask=inputs.token_mask[:, order])
    second = model.apply(moved, renumbered, train=False).logits
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)  # another order of float32 additions


def test_rows_do_not_see_each_other():
    shape = ModelShape(3, 6, 4, 2)
    model = wukong.build({**SMALL, "fm": "attentive"}, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs)
    together = model.apply(variables, inputs, train=False).logits
    alone = model.apply(variables, ModelInputs(*(a[1:2] for a in inputs[:4]), {}), train=False).logits
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)  # products of another shape round otherwise


@pytest.mark.parametrize("fm", ["static", "full", "attentive"])
@pytest.mark.parametrize("scale", [0.02, 1e-3])
def test_tiny_embeddings_reach_the_logits_at_full_size(fm, scale):
    """Scale is gone after the FM's norm: its epsilon must not swallow a variance of scale**4."""
    shape = ModelShape(0, 6, 4, 1)
    options = {**SMALL, "fm": fm, "rank": None, "use_residual": False, "use_lcb": False, "norm": "none", "layers": 1}
    model = wukong.build(options, shape)
    inputs = make_inputs(shape, rows=16, scale=1.0)
    variables = draw_parameters(model, inputs)

    @jax.jit
    def logits(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits

    # fm_norm_epsilon 1e-12 against a variance from 1e-12 (scale 1e-3: the FM's values are near 1e-6) up
    spread = np.std(logits(variables, scale * inputs.embeddings) - logits(variables, 0 * inputs.embeddings))
    assert spread > 0.3 * np.std(logits(variables, inputs.embeddings))
    gradients = jax.jit(jax.grad(lambda v, e: (logits(v, e) ** 2).sum(), (0, 1)))(variables, scale * inputs.embeddings)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert np.abs(gradients[1]).max() > 0


def test_head_starts_near_zero_by_default():
    shape = ModelShape(3, 6, 8, 2)
    inputs = make_inputs(shape, rows=64)
    default = {name: value for name, value in SMALL.items() if name != "head_output_scale"}
    start = []
    for options in (default, SMALL):
        model = wukong.build(options, shape)
        start.append(np.abs(model.apply(init(model, inputs), inputs, train=False).logits).max())
    assert start[0] < 0.1 < start[1]


@pytest.mark.parametrize("place", ["embedding_dropout", "fmb_dropout", "head_dropout"])
def test_dropout_acts_in_training_only(place):
    shape = ModelShape(3, 6, 4, 1)
    model = wukong.build({**SMALL, place: 0.5}, shape)
    plain = wukong.build(SMALL, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs)

    def train(seed):
        return model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(seed)}).logits

    np.testing.assert_array_equal(
        model.apply(variables, inputs, train=False).logits, plain.apply(variables, inputs, train=False).logits
    )
    np.testing.assert_array_equal(train(0), train(0))
    assert np.abs(train(0) - train(1)).max() > 1e-4
    assert np.abs(train(0) - plain.apply(variables, inputs, train=True).logits).max() > 1e-4


@pytest.mark.parametrize("fm", ["static", "full", "attentive"])
def test_bfloat16_stays_near_float32(fm):
    options = {**SMALL, "fm": fm, "rank": None}
    shapes = [ModelShape(3, 6, 8, 2, compute_dtype=name) for name in ("float32", "bfloat16")]
    inputs = make_inputs(shapes[0], rows=64)
    exact, rounded = (wukong.build(options, shape) for shape in shapes)
    variables = draw_parameters(exact, inputs)
    shapes = jax.eval_shape(lambda key: rounded.init(key, inputs, train=False), jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    first = exact.apply(variables, inputs, train=False).logits
    second = rounded.apply(variables, inputs, train=False).logits
    assert second.dtype == jnp.float32
    error = np.sqrt(np.mean((first - second) ** 2)) / np.std(first)
    # 8 bits of mantissa, 2**-9 a rounding, some dozens of roundings that add up as a random walk; above 0: it did round
    assert 1e-5 < error < 0.05
    traced = str(jax.make_jaxpr(lambda v: rounded.apply(v, inputs, train=False).logits)(variables))
    assert "bf16" in traced


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"layer": 2}, "did you mean 'layers'"),
        ({"layers": 0}, "layers = 0"),
        ({"fm": "fast"}, "'full', 'static', 'attentive'"),
        ({"fm": "full", "rank": 8}, "rank = 8"),
        ({"attention": {"tokens": 2}}, "attention"),
        ({"fm": "attentive", "attention": {"tokens": 0}}, "tokens = 0"),
        ({"fmb_dropout": 1.0}, "fmb_dropout = 1.0"),
        ({"fmb_hidden": [8, 0]}, r"fmb_hidden = \[8, 0\]"),
        ({"norm": "batch"}, "norm = 'batch'"),
        ({"use_fmb": False, "use_lcb": False, "use_residual": False}, "nothing is left"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    with pytest.raises(UserError, match=word) as caught:
        wukong.build(options, ModelShape(0, 6, 4, 1))
    assert str(caught.value).startswith("config.model.options.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fan_in", [4, 400])
def test_token_maps_start_at_the_scale_of_their_inputs(fan_in):
    """The fan-in is the number of tokens that enter, not of those that leave."""
    shape = ModelShape(0, fan_in, 4, 1)
    layer = init(wukong.build({"rank": 40}, shape), make_inputs(shape))["params"]["layer_0"]
    kernels = (layer["lcb"], layer["residual"], layer["fmb"]["projection"])
    for kernel in kernels:
        # at least 64 draws, so the standard deviation is known to 10 %, three times that allowed
        assert math.isclose(np.std(kernel), fan_in**-0.5, rel_tol=0.3)


def test_dense_tokens_start_near_the_embeddings_size():
    shape = ModelShape(13, 2, 16, 1)
    model = wukong.build({}, shape)
    inputs = make_inputs(shape, rows=256)
    variables = init(model, inputs)
    _, state = model.apply(variables, inputs, train=False, capture_intermediates=lambda m, _: m.name == "bottom")
    made = np.asarray(state["intermediates"]["bottom"]["__call__"][0])
    assert 0.01 < np.std(made) < 0.04  # dense_token_scale 0.02 for columns of unit variance


def test_no_option_is_idle():
    """Each option, over each variant, changes the traced start or training pass, or is refused."""
    changes = {
        **{"layers": 3, "fmb_tokens": 4, "lcb_tokens": 3, "rank": 5, "fmb_hidden": [8], "head_hidden": [8]},
        **{"bottom_hidden": [8], "dense_tokens": 1, "dense_token_scale": 0.1, "norm": "flat", "fm_norm": False},
        **{"norm_epsilon": 0.1, "fm_norm_epsilon": 0.1, "mlp_biases": False, "token_biases": True},
        "mlp_norm": "batch",
        **{"fmb_output_activation": "relu", "embedding_dropout": 0.3, "fmb_dropout": 0.3, "head_dropout": 0.3},
        **{"head_output_scale": 0.5, "use_fmb": False, "use_lcb": False, "use_residual": False},
        "fm": {"fm": "full", "rank": None},
        "attention": {"attention": {"tokens": 2}, "fm": "attentive"},
    }

    def exempt(options, name):
        return not options.get("use_fmb", True) and name in ("fm", "rank", "attention", "fmb_hidden")

    shape = ModelShape(3, 6, 4, 1)
    switched = ("static", "full", "attentive", "norm_none", "no_fmb", "no_lcb", "no_lcb_tokens", "deeper")
    variants = [VARIANTS[name] for name in switched]
    assert_no_model_option_is_idle(wukong.build, wukong.WukongOptions, SMALL, variants, changes, shape, exempt)
