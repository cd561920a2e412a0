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
from wukong_jax.models import masknet
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.vector_model import EMBEDDING_NORM_EPSILON

SMALL = {"bottom_hidden": [5], "block_widths": [6, 5], "head_output_scale": 1.0}
PARALLEL = {"structure": "parallel", "head_hidden": [7]}
VARIANTS = {
    "serial": {},
    "parallel": PARALLEL,
    "narrow_masks": {"reduction_ratio": 0.01},
    "wide_masks": {**PARALLEL, "reduction_ratio": 1.3},
    "no_token_norm": {"token_norm": False},
    "no_biases": {**PARALLEL, "mlp_biases": False, "bottom_output_activation": "none"},
    "all_norms": {"embedding_norm": True, "mlp_norm": "layer", "head_hidden": [7, 4]},
    "one_block": {"block_widths": [6]},
    "three_blocks": {"block_widths": [6, 4, 5], "reduction_ratio": 0.5},
}


def affine(values, layer):
    kernel = layer["kernel"]
    bias = layer.get("bias", np.zeros(kernel.shape[1]))
    return np.array([sum(values * kernel[:, column]) + bias[column] for column in range(kernel.shape[1])])


def twin(dense, embeddings, mask, params, options):
    """Computes MaskNet for one row, one mask at a time."""
    vectors = baseline_twin.input_vectors(dense, embeddings, mask, params, options)
    flat = vectors.reshape(-1)
    first = flat
    if options.token_norm:
        norms = zip(vectors, params["token_norm"]["scale"], params["token_norm"]["bias"], strict=True)
        first = np.concatenate([wukong_twin.layer_norm(v, EMBEDDING_NORM_EPSILON, s, b, 0) for v, s, b in norms])
    outputs, start = [], 0
    for index in range(len(options.block_widths)):
        source = first if options.structure == "parallel" or not outputs else outputs[-1]
        end = start + max(1, int(options.reduction_ratio * len(source)))
        aggregation = {name: leaf[..., start:end] for name, leaf in params["aggregation"].items()}
        guide = np.maximum(affine(flat, aggregation), 0)
        made = affine(affine(guide, params[f"projection_{index}"]) * source, params[f"block_{index}"])
        norm = params[f"block_norm_{index}"]
        made = wukong_twin.layer_norm(made, masknet.BLOCK_NORM_EPSILON, norm["scale"], norm["bias"], 0)
        outputs.append(np.maximum(made, 0))
        start = end
    assert start == params["aggregation"]["kernel"].shape[1]
    last = np.concatenate(outputs) if options.structure == "parallel" else outputs[-1]
    return wukong_twin.mlp(last, params["head"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_numpy_twin(variant):
    shape = ModelShape(3, 5, width=4, objectives=2)
    # float32 rounding (1e-7) through up to eight sums of under 35 terms, and norms that enlarge what cancels
    assert_equals_twin(masknet.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=5e-5)


@pytest.mark.parametrize("options", [SMALL, {**SMALL, **PARALLEL}])
@pytest.mark.parametrize(("dense_features", "tokens"), [(3, 0), (0, 1), (0, 5)])
def test_dense_columns_or_embeddings_alone_equal_the_twin(dense_features, tokens, options):
    shape = ModelShape(dense_features, tokens, width=4, objectives=1)
    model = masknet.build({**options, "bottom_output_activation": "none"}, shape)
    assert_equals_twin(model, shape, twin, rtol=5e-5)


def test_one_serial_block_equals_one_parallel_block_with_a_linear_head():
    shape = ModelShape(3, 5, 4, 2)
    serial, parallel = (
        masknet.build({**SMALL, "block_widths": [6], "structure": structure, "head_hidden": []}, shape)
        for structure in ("serial", "parallel")
    )
    inputs = make_inputs(shape)
    variables = draw_parameters(serial, inputs, noise=0.1)
    first, second = (model.apply(variables, inputs, train=False).logits for model in (serial, parallel))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("options", [{}, PARALLEL])
def test_masks_multiply(options):
    """A mask of ones everywhere leaves an MLP with layer norms over the normed vectors; a zero mask leaves nothing."""
    shape = ModelShape(0, 5, 4, 1)
    inputs = make_inputs(shape)
    model = masknet.build({**SMALL, **options, "token_norm": False}, shape)
    params = draw_parameters(model, inputs, noise=0.1)["params"]
    for index in range(2):
        projection = params[f"projection_{index}"]
        projection["kernel"], projection["bias"] = 0 * projection["kernel"], 1 + 0 * projection["bias"]
    made = model.apply({"params": params}, inputs, train=False).logits
    values = (inputs.embeddings * inputs.token_mask[:, :, None]).reshape(4, -1)
    outputs = []
    for index in range(2):
        source = values if options or not outputs else outputs[-1]
        norm = params[f"block_norm_{index}"]
        hidden = wukong_twin.layer_norm(
            source @ params[f"block_{index}"]["kernel"], masknet.BLOCK_NORM_EPSILON, norm["scale"], norm["bias"], 1
        )
        outputs.append(np.maximum(hidden, 0))
    last = np.concatenate(outputs, axis=1) if options else outputs[-1]
    expected = [wukong_twin.mlp(row, params["head"]) for row in last]
    # float32 rounding through a dozen sums
    np.testing.assert_allclose(made, expected, rtol=2e-5, atol=2e-5)
    for index in range(2):
        params[f"projection_{index}"]["bias"] *= 0
    made = model.apply({"params": params}, inputs, train=False).logits
    assert np.ptp(np.asarray(made)) == 0


@pytest.mark.parametrize("options", [{}, {"token_norm": False}])
def test_norms_keep_what_tiny_embeddings_say(options):
    """Biases at zero, masks are homogeneous, and the blocks' norms take the scale out but for their epsilon."""
    shape = ModelShape(0, 6, 8, 1)
    model = masknet.build({**SMALL, "block_widths": [16, 12], **options}, shape)
    inputs = make_inputs(shape, rows=16, scale=1.0)
    inputs.token_mask[:] = 1
    variables = draw_parameters(model, inputs)
    full, tiny = (
        model.apply(variables, inputs._replace(embeddings=s * inputs.embeddings), train=False).logits
        for s in (1.0, 1e-3)
    )
    # at scale 1e-3 a masked value's variance is near 1e-12, the epsilon itself, without the norm of the tokens
    rtol = 0.5 if options == {"token_norm": False} else 1e-3
    np.testing.assert_allclose(tiny, full, rtol=rtol, atol=rtol * np.std(full))


@pytest.mark.parametrize(("ratio", "least"), [(1.0, 20), (0.1, 2), (0.01, 1), (2.0, 40)])
def test_aggregation_width_is_the_ratio_of_the_masked_width(ratio, least):
    shape = ModelShape(0, 5, 4, 1)
    for structure, widths in (("serial", [least, max(1, int(ratio * 6))]), ("parallel", [least, least])):
        model = masknet.build({**SMALL, "structure": structure, "reduction_ratio": ratio}, shape)
        params = draw_parameters(model, make_inputs(shape))["params"]
        assert [params[f"projection_{index}"]["kernel"].shape[0] for index in range(2)] == widths
        assert params["aggregation"]["kernel"].shape == (20, sum(widths))


@pytest.mark.parametrize("structure", ["serial", "parallel"])
def test_count_equals_its_closed_form(structure):
    shape = ModelShape(3, 5, 4, 2)
    options = {"bottom_hidden": [7], "block_widths": [6, 8], "reduction_ratio": 0.5, "head_hidden": [9]}
    cost = count_cost(masknet.build({**options, "structure": structure}, shape), shape)
    flat = 6 * 4
    masked = [flat, flat if structure == "parallel" else 6]
    guides = [width // 2 for width in masked]
    bottom = 3 * 7 + 7 * 4
    masks = flat * sum(guides) + sum(guide * width for guide, width in zip(guides, masked, strict=True))
    blocks = masked[0] * 6 + masked[1] * 8
    head = (14 if structure == "parallel" else 8) * 9 + 9 * 2
    kernels = bottom + masks + blocks + head
    assert cost.forward_macs_per_example == kernels
    biases = 7 + 4 + sum(guides) + sum(masked) + 9 + 2
    norms = 2 * flat + 2 * (6 + 8)
    assert cost.dense_parameters == kernels + biases + norms
    assert cost.train_flops_per_example == 6 * kernels - 2 * 3 * 7


def test_count_agrees_with_xla():
    shape = ModelShape(13, 26, 16, 1)
    assert_cost_agrees_with_xla(masknet.build({"block_widths": [128, 128], "bottom_hidden": [64]}, shape), shape)


@pytest.mark.parametrize("options", [PARALLEL, {"token_norm": False}])
def test_absent_tokens_reach_neither_logits_nor_gradients(options):
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(masknet.build({**SMALL, **options}, shape), shape)


def test_rows_without_tokens_have_finite_gradients_at_the_start():
    """Their masks, and so what the blocks' norms see, are zero."""
    shape = ModelShape(0, 6, 4, 1)
    model = masknet.build(SMALL, shape)
    inputs = make_inputs(shape)
    inputs.token_mask[0] = 0
    variables = draw_parameters(model, inputs)

    def total(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits.sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, (0, 1)))(variables, inputs.embeddings)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() < 1e3


def test_logits_start_near_zero_by_default():
    shape = ModelShape(0, 6, 4, 2)
    inputs = make_inputs(shape, rows=64, scale=0.01)
    model = masknet.build({"block_widths": [16, 16]}, shape)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    logits = model.apply(variables, inputs, train=False).logits
    assert 0 < np.abs(logits).max() < 0.2
    kernel = variables["params"]["head"]["output"]["kernel"]
    # 0.01 of fan-in scale; 32 draws, so the deviation is known to an eighth, three times that allowed
    assert np.std(kernel) == pytest.approx(0.01 * kernel.shape[0] ** -0.5, rel=0.4)


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "block_dropout", "head_dropout"])
def test_dropout_acts_in_training_only(place):
    options = {**SMALL, **PARALLEL} if place == "head_dropout" else SMALL
    assert_dropout_acts_in_training_only(masknet.build, options, place, ModelShape(3, 6, 4, 1))


def test_bfloat16_stays_near_float32():
    assert_bfloat16_stays_near_float32(masknet.build, SMALL, ModelShape(3, 6, 8, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"reduction": 2}, "did you mean 'reduction_ratio'"),
        ({"reduction_ratio": 0}, "reduction_ratio = 0"),
        ({"structure": "stacked"}, "'serial', 'parallel'"),
        ({"block_widths": []}, r"block_widths = \[\]: at least one block"),
        ({"block_widths": [4, 1]}, r"block_widths = \[4, 1\]: must be all at least 2"),
        ({"block_dropout": 1.0}, "block_dropout = 1.0"),
        ({"head_dropout": 0.1}, "head_dropout = 0.1: has no effect without head_hidden"),
        ({"head_hidden": [0]}, r"head_hidden = \[0\]"),
        ({"mlp_norm": "layer"}, "mlp_norm = 'layer': has no effect without hidden layers"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(masknet.build, options, word, ModelShape(3, 6, 4, 1))


def test_norm_of_single_numbers_is_refused():
    with pytest.raises(UserError, match="token_norm = True: leaves zero of embeddings of width 1"):
        masknet.build({}, ModelShape(3, 6, 1, 1))
    masknet.build({"token_norm": False}, ModelShape(3, 6, 1, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        **{"structure": {"structure": "parallel", "block_widths": [6, 5]}, "block_widths": [7]},
        **{"reduction_ratio": 0.5, "token_norm": False},
        **{"block_dropout": 0.3, "head_hidden": [8], "head_dropout": {"head_dropout": 0.3, "head_hidden": [8]}},
        "mlp_norm": {"mlp_norm": "layer", "head_hidden": [8]},
    }
    options = {**SMALL, "block_widths": [6]}
    assert_no_model_option_is_idle(
        masknet.build, masknet.MaskNetOptions, options, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1)
    )
