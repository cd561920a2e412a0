import jax
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
from wukong_jax.models import dcnv2
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

SMALL = {"bottom_hidden": [5], "deep_hidden": [6, 5], "cross_layers": 2, "head_output_scale": 1.0}
VARIANTS = {
    "stacked": {},
    "parallel": {"structure": "parallel"},
    "low_rank": {"cross_rank": 3},
    "low_rank_parallel": {"cross_rank": 3, "structure": "parallel", "deep_hidden": [6]},
    "raw": {"dense_input": "raw", "bottom_hidden": [512, 256]},
    "linear_bottom": {"bottom_output_activation": "none"},
    "no_biases": {"cross_biases": False, "mlp_biases": False},
    "embedding_norm": {"embedding_norm": True},
    "mlp_norm": {"mlp_norm": "layer", "structure": "parallel"},
    "no_deep": {"deep_hidden": [], "cross_layers": 3},
}


def twin(dense, embeddings, mask, params, options):
    """Computes DCNv2 for one row."""
    first = baseline_twin.prepared_embeddings(embeddings, mask, params, options).reshape(-1)
    if len(dense):
        raw = options.dense_input == "raw"
        first = np.concatenate([first, dense if raw else baseline_twin.dense_vector(dense, params, options)])
    crossed = first
    for layer in range(options.cross_layers):
        kernel = params["cross"][f"cross_{layer}"]["kernel"]
        if options.cross_rank is not None:
            kernel = params["cross"][f"down_{layer}"]["kernel"] @ kernel
        bias = params["cross"][f"cross_{layer}"].get("bias", np.zeros(len(first)))
        mixed = [sum(crossed * kernel[:, column]) + bias[column] for column in range(len(first))]
        crossed = np.array([first[i] * mixed[i] + crossed[i] for i in range(len(first))])
    if options.structure == "parallel":
        crossed = np.concatenate([crossed, wukong_twin.mlp(first, params["deep"])])
    return wukong_twin.mlp(crossed, params["head"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dense_features", "tokens"), [(3, 5), (0, 5), (3, 0), (0, 1)])
def test_logits_equal_the_numpy_twin(variant, dense_features, tokens):
    shape = ModelShape(dense_features, tokens, width=4, objectives=2)
    if not tokens and "embedding_norm" in VARIANTS[variant]:
        with pytest.raises(UserError, match="embedding_norm = True: has no effect without embeddings"):
            dcnv2.build({**SMALL, **VARIANTS[variant]}, shape)
        return
    # float32 rounding (1e-7) through at most eight sums of under 30 terms
    assert_equals_twin(dcnv2.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=2e-5)


def test_each_cross_layer_raises_the_order_by_one():
    """With kernels alone, layer l's values are a polynomial of degree l + 1 in the scale of the input."""
    shape = ModelShape(0, 3, 4, 1)
    inputs = make_inputs(shape, scale=3.0)
    for layers in (1, 2, 3):
        options = {"cross_layers": layers, "cross_biases": False, "deep_hidden": [], "mlp_biases": False}
        model = dcnv2.build({**options, "head_output_scale": 1.0}, shape)
        variables = draw_parameters(model, inputs)
        scales = np.arange(1, layers + 4, dtype=np.float32)
        values = np.array(
            [
                model.apply(variables, inputs._replace(embeddings=s * inputs.embeddings), train=False).logits[0, 0]
                for s in scales
            ]
        )
        size = np.abs(values).max()
        # float32 rounding, 1e-7 of the largest value, grows by 2 with each difference
        assert np.abs(np.diff(values, layers + 2)).max() < 1e-5 * size
        assert np.abs(np.diff(values, layers + 1)).max() > 1e-3 * size


def test_count_is_the_dmt_papers():
    """96.22 MFLOP of training a sample are printed in table 4 of arXiv 2403.00877.

    Its count fits only with 5 elementwise operations for each value of a cross layer, which `count_cost` leaves out.
    """
    shape = ModelShape(13, 26, 128, 1)
    options = {"cross_layers": 3, "cross_rank": 512, "deep_hidden": [1024, 1024, 512, 256], "bottom_hidden": [512, 256]}
    cost = count_cost(dcnv2.build(options, shape), shape)
    width = 26 * 128 + 128
    bottom, cross = 13 * 512 + 512 * 256 + 256 * 128, 3 * 2 * width * 512
    over = width * 1024 + 1024 * 1024 + 1024 * 512 + 512 * 256 + 256
    assert cost.forward_macs_per_example == bottom + cross + over
    assert cost.train_flops_per_example == 6 * (bottom + cross + over) - 2 * 13 * 512
    assert round((cost.train_flops_per_example + 5 * 3 * width) / 1e6, 2) == 96.22


@pytest.mark.parametrize(("towers", "printed"), [(2, 43.71), (4, 50.01), (8, 62.60)])
def test_count_is_the_dmt_papers_behind_towers(towers, printed):
    """The rows of table 4 with a tower module of 2 cross layers of rank 256 and a linear map to 128, added by hand."""
    shape = ModelShape(13, towers, 128, 1)
    options = {"cross_layers": 3, "cross_rank": 512, "deep_hidden": [1024, 1024, 512, 256], "bottom_hidden": [512, 256]}
    cost = count_cost(dcnv2.build(options, shape), shape)
    columns = 26 * 128
    modules = 6 * (2 * 2 * columns * 256 + columns * 128) + 5 * 2 * columns
    total = cost.train_flops_per_example + 5 * 3 * (towers + 1) * 128 + modules
    assert round(total / 1e6, 2) == printed


@pytest.mark.parametrize("rank", [None, 7])
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_count_equals_its_closed_form(rank, structure):
    shape = ModelShape(3, 5, 4, 2)
    model = dcnv2.build(
        {"cross_rank": rank, "structure": structure, "deep_hidden": [6, 8], "dense_input": "raw"}, shape
    )
    cost = count_cost(model, shape)
    width = 5 * 4 + 3
    kernels = 3 * (width * width if rank is None else 2 * width * rank) + width * 6 + 6 * 8
    kernels += (8 if structure == "stacked" else 8 + width) * 2
    assert cost.forward_macs_per_example == kernels
    assert cost.dense_parameters == kernels + 3 * width + 6 + 8 + 2
    # raw dense columns stand in one vector with the embeddings, so their gradient is made with the others'
    assert cost.train_flops_per_example == 6 * kernels


@pytest.mark.parametrize("options", [{}, {"structure": "parallel", "cross_rank": 3}])
def test_absent_tokens_reach_neither_logits_nor_gradients(options):
    shape = ModelShape(3, 6, 4, 1)
    assert_absent_tokens_reach_nothing(dcnv2.build({**SMALL, **options}, shape), shape)


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_logits_start_near_zero_by_default(structure):
    shape = ModelShape(3, 6, 4, 2)
    inputs = make_inputs(shape, rows=64)
    model = dcnv2.build({"structure": structure, "deep_hidden": [16], "bottom_hidden": [8]}, shape)
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    logits = model.apply(variables, inputs, train=False).logits
    assert 0 < np.abs(logits).max() < 0.2
    head = variables["params"]["head"]
    kernel = head["output"]["kernel"]
    # 0.01 of fan-in scale; at least 32 draws, so the deviation is known to an eighth, three times that allowed
    assert np.std(kernel) == pytest.approx(0.01 * kernel.shape[0] ** -0.5, rel=0.4)


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "deep_dropout"])
def test_dropout_acts_in_training_only(place, structure):
    options = {**SMALL, "structure": structure}
    assert_dropout_acts_in_training_only(dcnv2.build, options, place, ModelShape(3, 6, 4, 1))


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_bfloat16_stays_near_float32(structure):
    assert_bfloat16_stays_near_float32(dcnv2.build, {**SMALL, "structure": structure}, ModelShape(3, 6, 8, 2))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"cross_layer": 2}, "did you mean 'cross_layers'"),
        ({"cross_layers": 0}, "cross_layers = 0"),
        ({"cross_rank": 0}, "cross_rank = 0"),
        ({"structure": "side"}, "'stacked', 'parallel'"),
        ({"structure": "parallel", "deep_hidden": []}, r"deep_hidden = \[\]"),
        ({"deep_hidden": [], "deep_dropout": 0.1}, "deep_dropout = 0.1: has no effect"),
        ({"deep_hidden": [0]}, r"deep_hidden = \[0\]"),
        ({"deep_dropout": 1.0}, "deep_dropout = 1.0"),
        ({"dense_input": "raw", "bottom_dropout": 0.1}, "bottom_dropout = 0.1: has no effect"),
        ({"dense_input": "raw", "bottom_hidden": [4]}, r"bottom_hidden = \[4\]: has no effect"),
        ({"head_output_scale": -1}, "head_output_scale = -1"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(dcnv2.build, options, word, ModelShape(3, 6, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        **{"cross_layers": 3, "cross_rank": 3, "cross_biases": False, "structure": "parallel", "deep_hidden": [8]},
        **{"deep_dropout": 0.3, "dense_input": {"dense_input": "raw", "bottom_hidden": [512, 256]}},
    }
    assert_no_model_option_is_idle(
        dcnv2.build, dcnv2.DCNv2Options, SMALL, VARIANTS.values(), changes, ModelShape(3, 6, 4, 1)
    )
