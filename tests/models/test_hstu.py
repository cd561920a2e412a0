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
from wukong_jax.layers.short_sequences import shorten_sequences
from wukong_jax.models import hstu
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

# Two context columns, the candidate's item between them, a history of eight events and one of four.
COLUMNS = ("user", "item", *["history"] * 8, "hour", *["likes"] * 4)
SHAPE = ModelShape(3, len(COLUMNS), 4, 2, token_columns=COLUMNS)
SMALL = {
    **{"sequences": ["history", "likes"], "target": ["item"], "bottom_hidden": [5], "token_width": 6, "layers": 2},
    **{"heads": 2, "query_width": 3, "value_width": 4, "head_hidden": [5], "head_output_scale": 1.0},
}
VARIANTS = {
    "usual": {},
    "three_layers": {"layers": 3, "heads": 1},
    "learned_candidate": {"target": [], "head_hidden": []},
    "two_target_columns": {"sequences": ["history"], "target": ["item", "hour"]},
    "fields_alone": {"sequences": [], "position_bias": False},
    "norms": {"embedding_norm": True, "mlp_norm": "layer"},
}


def silu(values):
    return values / (1 + np.exp(-values))


def layer_norm(token, params, epsilon):
    return wukong_twin.layer_norm(token, epsilon, params["scale"], params["bias"], 0)


def make_tokens(dense, embeddings, mask, params, options, columns):
    """Returns a row's tokens, and for each its kind ("context", "event", "candidate") and whether it is present."""
    vectors = baseline_twin.prepared_embeddings(embeddings, mask, params, options)
    tokens, kinds, present = [], [], []

    def add(vector, name, kind, there):
        tokens.append(vector @ params[name]["kernel"])
        kinds.append(kind)
        present.append(there)

    if len(dense):
        add(baseline_twin.dense_vector(dense, params, options), "context", "context", 1)
    for place, column in enumerate(columns):
        if column not in options.sequences + options.target:
            add(vectors[place], "context", "context", mask[place])
    for name in options.sequences:
        for place, column in enumerate(columns):
            if column == name:
                add(vectors[place], f"events_{name}", "event", mask[place])
    if options.target:
        own = [vectors[place] for name in options.target for place, column in enumerate(columns) if column == name]
        add(np.concatenate(own), "candidate", "candidate", 1)
    else:
        tokens.append(params["candidate"])
        kinds.append("candidate")
        present.append(1)
    return tokens, kinds, present


def apply_layer(tokens, kinds, present, params, options):
    """Applies a layer token by token and head by head (section 3 of the paper)."""
    count, made = len(tokens), []
    maps = {"query": options.query_width, "key": options.query_width}
    maps |= {"gate": options.value_width, "value": options.value_width}

    def mapped(token, name, head):
        normal = layer_norm(token, params["input_norm"], hstu.TOKEN_NORM_EPSILON)
        own = silu(normal @ params[name]["kernel"] + params[name]["bias"])
        return own[head * maps[name] : (head + 1) * maps[name]]

    for i, token in enumerate(tokens):
        mixed = []
        for head in range(options.heads):
            total = np.zeros(options.value_width)
            for j, other in enumerate(tokens):
                sees = kinds[j] == "context" or (kinds[i] != "context" and j <= i)
                if not sees or not present[j]:
                    continue
                score = mapped(token, "query", head) @ mapped(other, "key", head)
                if options.position_bias:
                    score += params["position_bias"][i - j + count - 1]
                total += silu(score) / count * mapped(other, "value", head)
            mixed.append(total)
        normal = layer_norm(np.concatenate(mixed), params["mixed_norm"], hstu.MIXED_NORM_EPSILON)
        gate = np.concatenate([mapped(token, "gate", head) for head in range(options.heads)])
        made.append(token + (normal * gate) @ params["output"]["kernel"])
    return made


def twin(dense, embeddings, mask, params, options):
    """Computes HSTU for one row."""
    tokens, kinds, present = make_tokens(dense, embeddings, mask, params, options, COLUMNS)
    for index in range(options.layers):
        tokens = apply_layer(tokens, kinds, present, params[f"layer_{index}"], options)
    return wukong_twin.mlp(tokens[-1], params["head"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dense_features", [0, 3])
def test_logits_equal_the_numpy_twin(variant, dense_features):
    shape = ModelShape(dense_features, len(COLUMNS), 4, 2, token_columns=COLUMNS)
    # float32 rounding (1e-7) through sums of under 30 terms and up to seven norms
    assert_equals_twin(hstu.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=5e-5)


def test_no_token_sees_a_later_event():
    """A changed event changes itself, later events and the candidate, and no context or earlier event."""
    plan = hstu.plan_tokens(2, (3,), (3,))
    tokens = np.random.default_rng(0).normal(size=(1, 6, 5)).astype(np.float32)
    present = np.ones((1, 6), np.float32)
    layer = hstu.HSTULayer(2, 3, 4, True)
    params = layer.init(jax.random.key(0), tokens, present, plan)
    apply = jax.jit(lambda tokens: layer.apply(params, tokens, present, plan))
    for changed, reached in ((0, range(6)), (1, range(6)), (2, range(2, 6)), (3, range(3, 6)), (5, [5])):
        other = tokens.copy()
        other[0, changed] += np.arange(5)
        moved = np.abs(apply(other) - apply(tokens)).max(2)
        assert list(np.flatnonzero(moved[0] > 1e-6)) == list(reached)


def test_the_last_layer_computes_the_candidate_that_the_whole_layer_computes():
    plan = hstu.plan_tokens(1, (4,), (4,))
    tokens = np.random.default_rng(1).normal(size=(3, 6, 5)).astype(np.float32)
    present = (np.arange(6) != 3).astype(np.float32)[None].repeat(3, 0)
    layer = hstu.HSTULayer(2, 3, 4, True)
    params = layer.init(jax.random.key(0), tokens, present, plan)
    whole, last = (layer.apply(params, tokens, present, p) for p in (plan, plan.take_last()))
    np.testing.assert_allclose(last[:, 0], whole[:, -1], rtol=1e-5, atol=1e-6)


def test_absent_last_events_are_left_out_without_a_change():
    model, inputs = hstu.build(SMALL, SHAPE), make_inputs(SHAPE)
    inputs.token_mask[:, 4:10] = inputs.token_mask[:, 12:15] = 0
    variables = draw_parameters(model, inputs, noise=0.1)
    assert model.short_sequences == ("history", "likes")

    def run(share):
        with shorten_sequences(share):
            return jax.jit(jax.value_and_grad(lambda v: (model.apply(v, inputs, train=False).logits ** 2).sum()))(
                variables
            )

    (whole, gradient), (short, short_gradient) = run(1.0), run(1 / 4)
    np.testing.assert_allclose(short, whole, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5), gradient, short_gradient)
    assert hstu.build({**SMALL, "embedding_norm": True}, SHAPE).short_sequences == ()


def test_count_equals_its_closed_form():
    shape = ModelShape(0, len(COLUMNS), 4, 1, token_columns=COLUMNS)
    options = {**SMALL, "sequences": ["history"], "layers": 2, "token_width": 10, "head_hidden": [9]}
    cost = count_cost(hstu.build(options, shape), shape)
    # the item becomes the candidate, so that there are as many tokens as columns
    n, d, q, v = len(COLUMNS), 10, 2 * 3, 2 * 4
    layer = 2 * d * (q + v) + v * d
    weights = 3 * 4 * d + 2 * layer + d * 9 + 9
    norms = 2 * (2 * d + 2 * v)
    assert cost.dense_parameters == weights + norms + 2 * 2 * (q + v) + 2 * (2 * n - 1) + 9 + 1
    whole = n * layer + n * n * (q + v)
    last = d * (q + v) + n * d * (q + v) + v * d + n * (q + v)
    assert cost.forward_macs_per_example == n * 4 * d + whole + last + d * 9 + 9


def test_count_agrees_with_xla():
    columns = (*(f"c{i}" for i in range(10)), *["history"] * 50)
    shape = ModelShape(13, len(columns), 16, 1, token_columns=columns)
    assert_cost_agrees_with_xla(hstu.build({"sequences": ["history"]}, shape), shape, most=1.2)


@pytest.mark.parametrize("variant", ["usual", "fields_alone"])
def test_absent_tokens_reach_neither_logits_nor_gradients(variant):
    assert_absent_tokens_reach_nothing(hstu.build({**SMALL, **VARIANTS[variant]}, SHAPE), SHAPE)


def test_rows_of_absent_tokens_alone_are_finite():
    shape = ModelShape(0, len(COLUMNS), 4, 1, token_columns=COLUMNS)
    assert_rows_of_absent_tokens_are_finite(hstu.build(SMALL, shape), shape)


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "head_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(hstu.build, SMALL, place, SHAPE)


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(hstu.build, SMALL, SHAPE)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sequence": ["history"]}, "did you mean 'sequences'"),
        ({"sequences": ["user"]}, "sequences: column 'user' has one token; name a sequence column"),
        ({"sequences": ["clicks"]}, "sequences: column 'clicks' has no token of its own; name a sequence column"),
        ({"target": ["price"]}, "target: column 'price' has no token of its own; name a feature column"),
        ({"target": ["history"]}, "no column twice"),
        ({"heads": 0}, "heads = 0: must be at least 1"),
        ({"head_hidden": [], "head_dropout": 0.1}, "head_dropout = 0.1: has no effect"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(hstu.build, {**SMALL, **options}, word, SHAPE)


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        **{
            "sequences": ["likes"],
            "target": ["user", "item", "hour"],
            "token_width": 12,
            "layers": 1,
            "heads": 1,
            "query_width": 5,
        },
        **{"value_width": 5, "position_bias": False, "head_hidden": [8], "head_dropout": 0.3},
    }
    assert_no_model_option_is_idle(hstu.build, hstu.HSTUOptions, SMALL, VARIANTS.values(), changes, SHAPE)
