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
    assert_rows_of_absent_tokens_are_finite,
)
from tests.models.random_parameters import draw_parameters
from wukong_jax.errors import UserError
from wukong_jax.models import autoint
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {
    **{"bottom_hidden": [5], "attention_layers": 2, "attention_dim": 6, "attention_heads": 2},
    **{"deep_hidden": [6, 5], "head_output_scale": 1.0},
}
VARIANTS = {
    "plus": {},
    "plain": {"deep_hidden": []},
    "plain_without_residual": {"deep_hidden": [], "attention_residual": False},
    "residual_without_projection": {"attention_dim": 4},
    "one_head": {"attention_heads": 1, "attention_scale": True},
    "scaled": {"attention_scale": True, "linear_term": True},
    "norms": {"attention_norm": True, "embedding_norm": True, "mlp_norm": "layer"},
    "no_biases": {"mlp_biases": False, "bottom_output_activation": "none"},
}


def attend(vectors, params, options):
    """Applies an interacting layer to one row [n, inputs], pair by pair."""
    width = options.attention_dim // options.attention_heads
    made = []
    for vector in vectors:
        heads = []
        for head in range(options.attention_heads):
            columns = slice(head * width, (head + 1) * width)
            query, keys, values = (
                vector @ params["query"][:, columns],
                [other @ params["key"][:, columns] for other in vectors],
                [other @ params["value"][:, columns] for other in vectors],
            )
            size = width**0.5 if options.attention_scale else 1.0
            weights = np.exp([sum(query * key) / size for key in keys])
            heads.append(sum(w * value for w, value in zip(weights / weights.sum(), values, strict=True)))
        output = np.concatenate(heads)
        if options.attention_residual:
            output = output + (vector @ params["residual"] if len(vector) != len(output) else vector)
        if options.attention_norm:
            norm = params["norm"]
            output = wukong_twin.layer_norm(output, autoint.ATTENTION_NORM_EPSILON, norm["scale"], norm["bias"], 0)
        made.append(np.maximum(output, 0))
    return np.array(made)


def twin(dense, embeddings, mask, params, options):
    """Computes AutoInt+ for one row."""
    inputs = baseline_twin.input_vectors(dense, embeddings, mask, params, options)
    vectors = inputs
    for layer in range(options.attention_layers):
        vectors = attend(vectors, params[f"attention_{layer}"], options)
    parts = [vectors.reshape(-1)]
    if options.deep_hidden:
        parts.append(wukong_twin.mlp(inputs.reshape(-1), params["deep"]))
    if options.linear_term:
        parts.append(inputs.reshape(-1))
    return wukong_twin.mlp(np.concatenate(parts), params["head"])


SIZES = [(name, 3, 5) for name in VARIANTS] + [
    (name, *sizes) for name in ("plus", "norms") for sizes in ((0, 5), (3, 1))
]


@pytest.mark.parametrize(("variant", "dense_features", "tokens"), SIZES)
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    # float32 rounding (1e-7) through at most ten sums of under 40 terms, two softmaxes and norms
    assert_equals_twin(autoint.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=2e-5)


@pytest.mark.parametrize("residual", [True, False])
def test_attention_knows_no_order(residual):
    """Permuted vectors come out permuted: no vector's place enters."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3, 5, 4)).astype(np.float32)
    order = random.permutation(5)
    layer = autoint.SelfAttention(6, 2, residual)
    variables = draw_parameters(layer, vectors)
    made, permuted = (layer.apply(variables, v, train=False) for v in (vectors, vectors[:, order]))
    # the same float32 terms in another order
    np.testing.assert_allclose(permuted, np.asarray(made)[:, order], rtol=1e-5, atol=1e-6)
    assert np.abs(made - np.asarray(made)[:, order]).max() > 0.1


def test_a_vectors_output_depends_on_every_other_vector():
    vectors = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    moved = np.array([vectors + np.eye(4)[:, [other]] for other in range(4)] + [vectors], np.float32)
    layer = autoint.SelfAttention(8, 2)
    made = np.asarray(layer.apply(draw_parameters(layer, moved), moved, train=False))
    assert np.all(np.abs(made[:4] - made[4]).max(axis=2) > 1e-3)  # [moved vector, output vector]


def test_count_is_that_of_bars_on_frappe():
    """622,180 are printed for AutoInt+ with 5,389 embeddings of 10 numbers (FuxiCTR 1.2.2, AutoInt+_frappe_x1).

    Its batch norms have the sizes of the norms here; its two output biases are one here.
    """
    options = {"attention_layers": 5, "attention_dim": 128, "attention_heads": 4, "attention_scale": True}
    options |= {"attention_norm": True, "mlp_norm": "layer", "deep_hidden": [400, 400, 400]}
    shape = ModelShape(0, 10, 10, 1)
    cost = count_cost(autoint.build(options, shape), shape)
    assert cost.dense_parameters == 622_180 - 10 * 5389 - 1


@pytest.mark.parametrize("residual", [True, False])
def test_count_equals_its_closed_form(residual):
    shape = ModelShape(3, 5, 4, 2)
    options = {"bottom_hidden": [7], "attention_layers": 2, "attention_dim": 6, "attention_heads": 3}
    model = autoint.build({**options, "deep_hidden": [9], "attention_residual": residual, "linear_term": True}, shape)
    cost = count_cost(model, shape)
    bottom, deep = 3 * 7 + 7 * 4, 6 * 4 * 9
    first, second = (3 + residual) * 4 * 6, 3 * 6 * 6
    head = (6 * 6 + 9 + 6 * 4) * 2
    assert cost.dense_parameters == bottom + deep + first + second + head + 7 + 4 + 9 + 2
    attention = 2 * 2 * 6 * 6 * 6  # in both layers, scores and weighted sums of all pairs
    macs = bottom + deep + 6 * (first + second) + attention + head
    assert cost.forward_macs_per_example == macs
    assert cost.train_flops_per_example == 6 * macs - 2 * 3 * 7  # no gradient to the dense columns


def test_count_agrees_with_xla():
    shape = ModelShape(13, 26, 16, 1)
    assert_cost_agrees_with_xla(autoint.build({}, shape), shape)


@pytest.mark.parametrize("options", [{}, {"attention_norm": True, "linear_term": True, "attention_residual": False}])
def test_absent_tokens_reach_neither_logits_nor_gradients(options):
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(autoint.build({**SMALL, **options}, shape), shape)


def test_logits_start_near_zero_by_default():
    shape = ModelShape(3, 6, 4, 2)
    inputs = make_inputs(shape, rows=64)
    model = autoint.build({**SMALL, "head_output_scale": autoint.AutoIntOptions.head_output_scale}, shape)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    assert 0 < np.abs(model.apply(variables, inputs, train=False).logits).max() < 0.1


def test_rows_of_absent_tokens_alone_are_finite_under_norms():
    shape = ModelShape(0, 3, 4, 1)
    assert_rows_of_absent_tokens_are_finite(
        autoint.build({**SMALL, "attention_norm": True, "embedding_norm": True}, shape), shape
    )


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "attention_dropout", "deep_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(autoint.build, SMALL, place, ModelShape(3, 6, 4, 1))


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(autoint.build, SMALL, ModelShape(3, 6, 8, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"attention_head": 2}, "did you mean 'attention_heads'"),
        ({"attention_layers": 0}, "attention_layers = 0: must be at least 1"),
        ({"attention_heads": 0}, "attention_heads = 0: must be at least 1"),
        ({"attention_dim": 0}, "attention_dim = 0: must be at least 1"),
        ({"attention_dim": 10, "attention_heads": 4}, "attention_dim = 10: a multiple of attention_heads"),
        ({"attention_dim": 4, "attention_heads": 4, "attention_scale": True}, "attention_scale = True: has no effect"),
        ({"attention_dim": 1, "attention_heads": 1, "attention_norm": True}, "attention_norm = True: attention_dim 1"),
        ({"attention_dropout": 1.0}, "attention_dropout = 1.0"),
        ({"deep_hidden": [0]}, r"deep_hidden = \[0\]"),
        ({"deep_hidden": [], "deep_dropout": 0.1}, "deep_dropout = 0.1: has no effect"),
        ({"deep_hidden": [], "mlp_norm": "layer"}, "mlp_norm = 'layer': has no effect without hidden layers"),
        ({"head_output_scale": -1}, "head_output_scale = -1"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(autoint.build, options, word, ModelShape(3, 6, 4, 1))


@pytest.mark.parametrize(("dense_features", "tokens"), [(0, 1), (3, 0)])
def test_a_single_vector_is_refused(dense_features, tokens):
    with pytest.raises(UserError, match=f"tokens = {tokens}: AutoInt weighs vectors"):
        autoint.build({}, ModelShape(dense_features, tokens, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        **{"attention_layers": 3, "attention_dim": 8, "attention_heads": 3, "attention_residual": False},
        **{"attention_scale": True, "attention_norm": True, "attention_dropout": 0.3, "deep_hidden": [8]},
        **{"deep_dropout": 0.3, "linear_term": True},
    }
    kind = autoint.AutoIntOptions
    assert_no_model_option_is_idle(autoint.build, kind, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1))
