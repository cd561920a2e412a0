import math

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
from wukong_jax.models import tokenmixer
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {
    **{"bottom_hidden": [5], "mixer_tokens": 3, "token_width": 6, "blocks": 2, "ffn_width": 4},
    **{"head_hidden": [5], "head_output_scale": 1.0},
}
VARIANTS = {
    "usual": {},
    "linear_head": {"head_hidden": []},
    "two_tokens": {"mixer_tokens": 2, "blocks": 3},
    "skips": {"blocks": 5, "skip_every": 2},
    "norms": {"embedding_norm": True, "mlp_norm": "layer"},
    "no_biases": {"mlp_biases": False, "bottom_output_activation": "none"},
}


def norm(token, params):
    return token / np.sqrt(np.mean(token**2) + tokenmixer.TOKEN_NORM_EPSILON) * params["scale"]


def linear(token, params, index):
    return token @ params["kernel"][index] + params["bias"][index, 0]


def ffn(tokens, params, name):
    made = []
    for index, token in enumerate(tokens):
        normed, weights = norm(token, params[f"{name}_norm"]), params[f"{name}_ffn"]
        gate = linear(normed, weights["gate"], index)
        hidden = gate / (1 + np.exp(-gate)) * linear(normed, weights["up"], index)
        made.append(linear(hidden, weights["down"], index))
    return made


def mix(tokens, part):
    return [np.concatenate([t[head * part : (head + 1) * part] for t in tokens]) for head in range(len(tokens))]


def add(first, second):
    return [one + other for one, other in zip(first, second, strict=True)]


def twin(dense, embeddings, mask, params, options):
    """Computes TokenMixer-Large for one row, token by token."""
    count = options.mixer_tokens
    flat = baseline_twin.input_vectors(dense, embeddings, mask, params, options).reshape(-1)
    width = math.ceil(len(flat) / (count - 1))
    padded = np.append(flat, np.zeros((count - 1) * width - len(flat)))
    tokens = [linear(flat, params["global"], 0)]
    tokens += [linear(padded[width * t : width * (t + 1)], params["tokens"], t) for t in range(count - 1)]
    part, kept = options.token_width // count, tokens
    for block in range(1, options.blocks + 1):
        mixed = mix(tokens, part)
        mixed = add(mixed, ffn(mixed, params, f"mixed_{block - 1}"))
        tokens = add(tokens, ffn(mix(mixed, part), params, f"reverted_{block - 1}"))
        if options.skip_every and block % options.skip_every == 0 and block < options.blocks:
            tokens = kept = add(tokens, kept)
    return wukong_twin.mlp(norm(tokens[0], params["last_norm"]), params["head"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dense_features", "tokens"), [(3, 5), (0, 4)])
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    # float32 rounding (1e-7) through sums of under 30 terms and up to eleven norms
    assert_equals_twin(tokenmixer.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=2e-5)


def test_blocks_start_near_the_identity():
    """The output kernels start at a hundredth, so a deep stack's tokens start as those before it."""
    shape = ModelShape(0, 16, width=16, objectives=1)
    inputs = make_inputs(shape, rows=64)

    def start(blocks):
        model = tokenmixer.build({"blocks": blocks, "head_output_scale": 1.0}, shape)
        params = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))["params"]
        return params, np.asarray(model.apply({"params": params}, inputs, train=False).logits)

    params, shallow = start(1)
    deep = start(8)[1]
    np.testing.assert_allclose(np.mean(np.square(params["mixed_0_ffn"]["down"]["kernel"])), 1e-4 / 64, rtol=0.05)
    assert 0 < np.abs(deep - shallow).max() < 0.1 * np.std(shallow)


def test_count_equals_its_closed_form():
    shape = ModelShape(3, 5, 4, 2)
    options = {"bottom_hidden": [7], "mixer_tokens": 4, "token_width": 8, "blocks": 2, "ffn_width": 5}
    cost = count_cost(tokenmixer.build({**options, "head_hidden": [9]}, shape), shape)
    bottom, tokens, head = 3 * 7 + 7 * 4, 3 * 8 * 8 + 24 * 8, 8 * 9 + 9 * 2
    ffn = 3 * 4 * 8 * 5  # of one MLP; a block has two
    norms = 2 * 2 * 8 + 8
    biases = 7 + 4 + 4 * 8 + 4 * 4 * (2 * 5 + 8) + 9 + 2
    assert cost.dense_parameters == bottom + tokens + 4 * ffn + head + norms + biases
    macs = bottom + tokens + 4 * ffn + head
    assert cost.forward_macs_per_example == macs
    assert cost.train_flops_per_example == 6 * macs - 2 * 3 * 7  # no gradient to the dense columns


def test_count_agrees_with_xla():
    shape = ModelShape(13, 26, 16, 1)
    options = {"token_width": 256, "ffn_width": 256}
    assert_cost_agrees_with_xla(tokenmixer.build(options, shape), shape, most=1.1)


def test_absent_tokens_reach_neither_logits_nor_gradients():
    shape = ModelShape(3, 6, 4, 1)
    linear_head = {**SMALL, "head_hidden": []}  # five ReLUs are off for one of the rows
    assert_absent_tokens_reach_nothing(tokenmixer.build(linear_head, shape), shape)


def test_rows_of_absent_tokens_alone_are_finite():
    shape = ModelShape(0, 3, 4, 1)
    assert_rows_of_absent_tokens_are_finite(tokenmixer.build(SMALL, shape), shape)


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "head_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(tokenmixer.build, SMALL, place, ModelShape(3, 6, 4, 1))


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(tokenmixer.build, SMALL, ModelShape(3, 6, 8, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mixer_token": 4}, "did you mean 'mixer_tokens'"),
        ({"mixer_tokens": 1}, "mixer_tokens = 1: must be at least 2"),
        ({"mixer_tokens": 4, "token_width": 6}, "token_width = 6: is cut into mixer_tokens = 4 equal parts"),
        ({"mixer_tokens": 30, "token_width": 30}, "mixer_tokens = 30: the 28 values of a row's vectors"),
        ({"blocks": 0}, "blocks = 0: must be at least 1"),
        ({"ffn_width": 0}, "ffn_width = 0: must be at least 1"),
        ({"skip_every": 2}, "skip_every = 2: below blocks = 2"),
        ({"head_dropout": 0.1}, "head_dropout = 0.1: has no effect"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(tokenmixer.build, options, word, ModelShape(3, 6, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        **{"mixer_tokens": 2, "token_width": 12, "blocks": 3, "ffn_width": 7, "skip_every": 1},
        **{"head_hidden": [8], "head_dropout": 0.3},
    }
    kind = tokenmixer.TokenMixerOptions
    assert_no_model_option_is_idle(tokenmixer.build, kind, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1))
