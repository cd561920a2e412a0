import itertools

import jax
import numpy as np
import pytest

from tests.models.baseline_twin import make_inputs
from tests.models.model_checks import (
    assert_absent_tokens_reach_nothing,
    assert_equals_twin,
    assert_no_model_option_is_idle,
    assert_refused_by_name,
)
from tests.models.random_parameters import draw_parameters
from wukong_jax.errors import UserError
from wukong_jax.models import fm
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape


def twin(dense, embeddings, mask, params, options):
    """The machine's definition for one row: every feature, then every pair of features, each objective by itself."""
    logits = []
    for objective, bias in enumerate(params["bias"]):
        part = embeddings.shape[1] // len(params["bias"])
        own = embeddings[:, objective * part : (objective + 1) * part]
        features = [(1.0, row[0], row[1:]) for row, present in zip(own, mask, strict=True) if present]
        for column, value in enumerate(dense):
            weight, factors = params["dense_weights"][column, objective], params["dense_factors"][column, objective]
            features.append((value, weight, factors))
        total = bias + sum(value * weight for value, weight, _ in features)
        for (x, _, v), (y, _, w) in itertools.combinations(features, 2):
            total += sum(v * w) * x * y
        logits.append(total)
    return np.array(logits)


@pytest.mark.parametrize(("dense_features", "tokens"), [(3, 5), (0, 5), (3, 0), (1, 1), (0, 2)])
@pytest.mark.parametrize(("objectives", "width"), [(1, 5), (1, 2), (2, 8)])
def test_logits_equal_the_double_loop_over_pairs(dense_features, tokens, objectives, width):
    shape = ModelShape(dense_features, tokens, width, objectives)
    # float32 rounding (1e-7) of sums of under 30 terms, with a difference of squares twice the result's size
    assert_equals_twin(fm.build({}, shape), shape, twin, rtol=2e-5)


@pytest.mark.parametrize("dense_features", [0, 2])
def test_tokens_interact_in_pairs_and_no_higher(dense_features):
    """The mixed difference over two tokens is their dot, whatever else is there; over three it is zero."""
    shape = ModelShape(dense_features, 4, width=6, objectives=2)
    dense, embeddings, mask, *rest = make_inputs(shape, rows=1, scale=1.0)
    model = fm.build({}, shape)
    variables = draw_parameters(model, (dense, embeddings, mask, *rest), noise=0.1)

    def difference(*tokens):
        total = 0.0
        for present in itertools.product((0, 1), repeat=len(tokens)):
            chosen = mask.copy()
            chosen[0, list(tokens)] = present
            sign = (-1) ** (len(tokens) - sum(present))
            total = total + sign * model.apply(variables, dense, embeddings, chosen, *rest, train=False).logits[0]
        return total

    factors = embeddings[0].reshape(4, 2, 3)[:, :, 1:]
    # logits are near 5, so their float32 rounding is 5e-7 each, four or eight of them
    np.testing.assert_allclose(difference(0, 2), (factors[0] * factors[2]).sum(-1), rtol=1e-5, atol=4e-6)
    np.testing.assert_allclose(difference(0, 1, 2), 0, atol=4e-6)
    assert np.abs(difference(0, 2)).min() > 1e-2


def test_each_dense_column_pairs_with_the_others_but_not_with_itself():
    """Linear in each column, bilinear in two: a dense column is one feature of its value."""
    shape = ModelShape(2, 3, width=4, objectives=1)
    dense, embeddings, mask, *rest = make_inputs(shape, rows=1)
    model = fm.build({}, shape)
    variables = draw_parameters(model, (dense, embeddings, mask, *rest))

    def logit(first, second):
        values = np.array([[first, second]], np.float32)
        return float(model.apply(variables, values, embeddings, mask, *rest, train=False).logits[0, 0])

    # float32 rounding of logits below 20
    assert abs(logit(3, 1) + logit(-3, 1) - 2 * logit(0, 1)) < 2e-5
    factors = variables["params"]["dense_factors"][:, 0]
    mixed = logit(3, 2) - logit(3, 0) - logit(0, 2) + logit(0, 0)
    assert mixed == pytest.approx(6 * float(factors[0] @ factors[1]), rel=1e-5, abs=2e-5)
    assert abs(mixed) > 0.1


def test_compute_dtype_changes_nothing():
    exact, rounded = (ModelShape(3, 5, 4, 1, compute_dtype=name) for name in ("float32", "bfloat16"))
    inputs = make_inputs(exact)
    variables = draw_parameters(fm.build({}, exact), inputs, noise=0.1)
    made = [fm.build({}, shape).apply(variables, *inputs, train=True).logits for shape in (exact, rounded)]
    np.testing.assert_array_equal(*made)
    assert made[1].dtype == np.float32


@pytest.mark.parametrize("dense_features", [0, 3])
def test_count_equals_its_closed_form(dense_features):
    shape = ModelShape(dense_features, 5, 8, 2)
    cost = count_cost(fm.build({}, shape), shape)
    assert cost.dense_parameters == 2 + dense_features * 8
    assert cost.forward_macs_per_example == dense_features * (8 + 2)  # sums [D] and sums of squares [O]
    assert cost.train_flops_per_example == 4 * dense_features * (8 + 2)  # raw columns need no gradient


def test_absent_tokens_reach_neither_logits_nor_gradients():
    shape = ModelShape(3, 6, 4, 2)
    assert_absent_tokens_reach_nothing(fm.build({}, shape), shape)


def test_dense_columns_start_small_and_apart():
    shape = ModelShape(64, 0, 9, 1)
    inputs = make_inputs(shape, rows=1024)
    for options, scale in (({}, 0.02), ({"dense_factor_scale": 0.1}, 0.1)):
        model = fm.build(options, shape)
        variables = model.init(jax.random.key(0), *inputs, train=False)
        params = variables["params"]
        assert not np.any(params["dense_weights"])
        assert not np.any(params["bias"])
        # 512 draws: their deviation is known to 3 %, three times that allowed
        assert np.std(params["dense_factors"]) == pytest.approx(scale, rel=0.1)
        # 2016 pairs of unit columns, each with a sum of 8 products of size scale**2; the factors drawn move it by 12 %
        size = np.sqrt(np.mean(np.square(model.apply(variables, *inputs, train=False).logits)))
        assert size == pytest.approx((2016 * 8) ** 0.5 * scale**2, rel=0.3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"factor_scale": 0.1}, "factor_scale = 0.1: unknown key; did you mean 'dense_factor_scale'"),
        ({"dense_factor_scale": 0}, "dense_factor_scale = 0.0: must be above 0"),
        ({"dense_factor_scale": -0.1}, "dense_factor_scale = -0.1: must be above 0"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(fm.build, options, word, ModelShape(3, 5, 4, 1))


@pytest.mark.parametrize(
    ("shape", "options", "word"),
    [
        (ModelShape(3, 5, 7, 2), {}, r"config\.embeddings\.width = 7: .* set a multiple of 2, at least 4"),
        (ModelShape(3, 5, 1, 2), {}, r"config\.embeddings\.width = 1: .* set a multiple of 2, at least 4"),
        (ModelShape(3, 5, 2, 2), {}, r"config\.embeddings\.width = 2: .*K = 0, logistic regression.*at least 4"),
        (ModelShape(3, 0, 1, 1), {}, r"config\.embeddings\.width = 1: .*K = 0, logistic regression.*at least 2"),
        (ModelShape(0, 1, 4, 1), {}, "tokens = 1: a factorization machine pairs features"),
        (ModelShape(0, 5, 4, 1), {"dense_factor_scale": 0.1}, "dense_factor_scale = 0.1: has no effect without dense"),
    ],
)
def test_shapes_without_pairs_are_refused(shape, options, word):
    with pytest.raises(UserError, match=word) as caught:
        fm.build(options, shape)
    assert "\n" not in str(caught.value)


def test_no_option_is_idle():
    changes = {"dense_factor_scale": 0.3}
    assert_no_model_option_is_idle(fm.build, fm.FMOptions, {}, [{}], changes, ModelShape(3, 6, 4, 1))
