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
from wukong_jax.models import rankmixer
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {
    **{"bottom_hidden": [5], "mixer_tokens": 3, "token_width": 6, "blocks": 2, "ffn_ratio": 2},
    **{"head_hidden": [5], "head_output_scale": 1.0},
}
VARIANTS = {
    "usual": {},
    "linear_head": {"head_hidden": []},
    "two_tokens": {"mixer_tokens": 2, "blocks": 3},
    "norms": {"embedding_norm": True, "mlp_norm": "layer"},
    "no_biases": {"mlp_biases": False, "bottom_output_activation": "none"},
}


def gelu(value):
    return value * 0.5 * (1 + math.erf(value / 2**0.5))


def norm(token, params):
    return wukong_twin.layer_norm(token, rankmixer.TOKEN_NORM_EPSILON, params["scale"], params["bias"], 0)


def linear(token, params, index):
    return token @ params["kernel"][index] + params["bias"][index, 0]


def twin(dense, embeddings, mask, params, options):
    """Computes RankMixer for one row, token by token."""
    count = options.mixer_tokens
    flat = baseline_twin.input_vectors(dense, embeddings, mask, params, options).reshape(-1)
    width = math.ceil(len(flat) / count)
    flat = np.append(flat, np.zeros(count * width - len(flat)))
    tokens = [linear(flat[width * t : width * (t + 1)], params["tokens"], t) for t in range(count)]
    part = options.token_width // count
    for block in range(options.blocks):
        mixed = []
        for head in range(count):
            made = np.concatenate([token[head * part : (head + 1) * part] for token in tokens])
            mixed.append(norm(made + tokens[head], params[f"mixed_norm_{block}"]))
        tokens = []
        for t, token in enumerate(mixed):
            hidden = np.array([gelu(value) for value in linear(token, params[f"ffn_{block}"], t)])
            output = linear(hidden, params[f"ffn_output_{block}"], t)
            tokens.append(norm(output + token, params[f"ffn_norm_{block}"]))
    return wukong_twin.mlp(sum(tokens) / count, params["head"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dense_features", "tokens"), [(3, 5), (0, 4), (0, 5)])
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    # float32 rounding (1e-7) through sums of under 30 terms and up to six norms
    assert_equals_twin(rankmixer.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=2e-5)


def test_mixing_twice_changes_nothing_and_once_moves_one_part_of_every_token():
    tokens = np.arange(4 * 3 * 8, dtype=np.float32).reshape(4, 3, 8)
    mixed = np.asarray(rankmixer.mix_tokens(tokens))
    np.testing.assert_array_equal(rankmixer.mix_tokens(mixed), tokens)
    for part in range(4):
        for token in range(4):
            mine, theirs = slice(2 * token, 2 * token + 2), slice(2 * part, 2 * part + 2)
            np.testing.assert_array_equal(mixed[part, :, mine], tokens[token, :, theirs])


def test_kernels_start_with_the_fan_in_of_one_token():
    """Public implementations divide by the fan-in of all tokens together (section 3.3.2 has separate weights)."""
    shape = ModelShape(0, 16, width=64, objectives=1)
    model = rankmixer.build({"mixer_tokens": 16, "token_width": 256, "blocks": 1}, shape)
    inputs = make_inputs(shape)
    params = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))["params"]
    for name, mean_square in (("tokens", 1 / 64), ("ffn_0", 2 / 256), ("ffn_output_0", 1 / 512)):
        # a million normal values: the mean square is known to 0.2 %
        np.testing.assert_allclose(np.mean(np.square(params[name]["kernel"])), mean_square, rtol=0.01)


def test_count_equals_its_closed_form():
    shape = ModelShape(3, 5, 4, 2)
    options = {"bottom_hidden": [7], "mixer_tokens": 4, "token_width": 8, "blocks": 2, "ffn_ratio": 3}
    cost = count_cost(rankmixer.build({**options, "head_hidden": [9]}, shape), shape)
    bottom, tokens, head = 3 * 7 + 7 * 4, 4 * 6 * 8, 8 * 9 + 9 * 2
    ffn = 2 * 3 * 4 * 8 * 8  # of one block: 2 k T W**2
    norms = 2 * 2 * 2 * 8
    assert cost.dense_parameters == bottom + tokens + 2 * ffn + head + norms + 7 + 4 + 4 * 8 + 2 * 4 * (24 + 8) + 9 + 2
    macs = bottom + tokens + 2 * ffn + head
    assert cost.forward_macs_per_example == macs
    assert cost.train_flops_per_example == 6 * macs - 2 * 3 * 7  # no gradient to the dense columns


def test_count_of_the_papers_sizes():
    """2 k L T W**2 of the blocks; both printed totals (107 million and 1.1 billion) lie between k = 2 and k = 4."""
    for tokens, width, low, high in ((16, 768, 75e6, 151e6), (32, 1536, 604e6, 1.21e9)):
        shape = ModelShape(0, 300, 16, 1)
        for ratio, expected in ((2, low), (4, high)):
            options = {"mixer_tokens": tokens, "token_width": width, "ffn_ratio": ratio}
            cost = count_cost(rankmixer.build(options, shape), shape)
            blocks = cost.dense_parameters - (math.ceil(4800 / tokens) + 1) * tokens * width
            assert blocks == pytest.approx(expected, rel=0.01)


def test_count_agrees_with_xla():
    shape = ModelShape(13, 26, 16, 1)
    assert_cost_agrees_with_xla(rankmixer.build({"token_width": 256}, shape), shape, most=1.1)


@pytest.mark.parametrize("options", [{}, {"mixer_tokens": 2, "blocks": 1}])
def test_absent_tokens_reach_neither_logits_nor_gradients(options):
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(rankmixer.build({**SMALL, **options}, shape), shape)


def test_rows_of_absent_tokens_alone_are_finite():
    shape = ModelShape(0, 3, 4, 1)
    assert_rows_of_absent_tokens_are_finite(rankmixer.build(SMALL, shape), shape)


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "head_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(rankmixer.build, SMALL, place, ModelShape(3, 6, 4, 1))


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(rankmixer.build, SMALL, ModelShape(3, 6, 8, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mixer_token": 4}, "did you mean 'mixer_tokens'"),
        ({"mixer_tokens": 1}, "mixer_tokens = 1: must be at least 2"),
        ({"mixer_tokens": 4, "token_width": 6}, "token_width = 6: is cut into mixer_tokens = 4 equal parts"),
        ({"mixer_tokens": 29, "token_width": 29}, "mixer_tokens = 29: the 28 values of a row's vectors"),
        ({"mixer_tokens": 16, "token_width": 16}, "mixer_tokens = 16: the 28 values of a row's vectors"),
        ({"blocks": 0}, "blocks = 0: must be at least 1"),
        ({"ffn_ratio": 0}, "ffn_ratio = 0: must be at least 1"),
        ({"head_dropout": 0.1}, "head_dropout = 0.1: has no effect"),
        ({"mlp_norm": "layer"}, "mlp_norm = 'layer': has no effect without hidden layers"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(rankmixer.build, options, word, ModelShape(3, 6, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        **{"mixer_tokens": 2, "token_width": 12, "blocks": 1, "ffn_ratio": 3, "head_hidden": [8], "head_dropout": 0.3},
    }
    kind = rankmixer.RankMixerOptions
    assert_no_model_option_is_idle(rankmixer.build, kind, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1))
