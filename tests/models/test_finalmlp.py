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
from wukong_jax.models import finalmlp
from wukong_jax.models.cost import count_cost
from wukong_jax.models.shape import ModelShape

COLUMNS = ("user", "item", "item", "", "city")  # two embeddings for each item; one token of several columns
SMALL = {
    **{"bottom_hidden": [5], "mlp1_hidden": [7, 6], "mlp2_hidden": [4], "fs_hidden": [5], "heads": 2},
    "head_output_scale": 1.0,
}
VARIANTS = {
    "constants": {},
    "contexts": {"fs1_context": ["user"], "fs2_context": ["city", "item"]},
    "one_context": {"fs2_context": ["item"], "fs_hidden": []},
    "no_selection": {"use_fs": False, "fs_hidden": [800]},
    "one_head": {"heads": 1},
    "no_biases": {"mlp_biases": False, "fs1_context": ["city"]},
    "all_norms": {"embedding_norm": True, "mlp_norm": "layer", "heads": 1},
}


def make_shape(dense_features=3, width=4, objectives=2, columns=COLUMNS):
    return ModelShape(dense_features, len(columns), width, objectives, token_columns=columns)


def gates(index, vectors, dense, params, options):
    columns = getattr(options, f"fs{index}_context")
    context = params.get(f"fs{index}_constant")
    if columns:
        tokens = vectors[1:] if len(dense) else vectors
        context = np.concatenate([tokens[i] for name in columns for i in range(5) if COLUMNS[i] == name])
    return 2 / (1 + np.exp(-wukong_twin.mlp(context, params[f"fs{index}"])))


def twin(dense, embeddings, mask, params, options):
    """Computes FinalMLP for one row, with the bilinear form term by term."""
    vectors = baseline_twin.input_vectors(dense, embeddings, mask, params, options)
    outputs = []
    for index in (1, 2):
        flat = vectors.reshape(-1)
        if options.use_fs:
            flat = flat * gates(index, vectors, dense, params, options)
        outputs.append(wukong_twin.mlp(flat, params[f"mlp{index}"]))
    logits = wukong_twin.mlp(np.concatenate(outputs), params["head"])
    kernel = params["bilinear"]["kernel"]
    firsts, seconds = (np.split(output, options.heads) for output in outputs)
    for head, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        for i, left in enumerate(first):
            for j, right in enumerate(second):
                logits = logits + left * kernel[head, i, :, j] * right
    return logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_numpy_twin(variant):
    shape = make_shape()
    # float32 rounding (1e-7) through up to six sums of under 30 terms, then products of two of them
    assert_equals_twin(finalmlp.build({**SMALL, **VARIANTS[variant]}, shape), shape, twin, rtol=3e-5)


@pytest.mark.parametrize(("dense_features", "columns"), [(3, ()), (0, COLUMNS), (0, COLUMNS[:1])])
def test_dense_columns_or_embeddings_alone_equal_the_twin(dense_features, columns):
    shape = make_shape(dense_features, columns=columns)
    context = {"fs1_context": ["user"]} if columns else {}
    model = finalmlp.build({**SMALL, **context, "bottom_output_activation": "none"}, shape)
    assert_equals_twin(model, shape, twin, rtol=3e-5)


def test_gates_start_at_exactly_one_and_logits_near_zero():
    shape = make_shape(0)
    inputs = make_inputs(shape, rows=64)
    streams = {"mlp1_hidden": [40], "mlp2_hidden": [60]}
    model = finalmlp.build({**streams, "fs_hidden": [16], "fs1_context": ["user"]}, shape)
    params = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))["params"]
    assert all(np.all(params[f"fs{index}"]["output"]["kernel"] == 0) for index in (1, 2))
    assert np.std(params["fs2_constant"]) > 0.1  # at zero it would never wake a ReLU
    logits = model.apply({"params": params}, inputs, train=False).logits
    without = {name: leaf for name, leaf in params.items() if not name.startswith("fs")}
    plain = finalmlp.build({**streams, "use_fs": False}, shape)
    np.testing.assert_array_equal(logits, plain.apply({"params": without}, inputs, train=False).logits)
    assert 0 < np.abs(logits).max() < 0.2
    # hundreds of draws each, so the deviations are known to a twentieth, three times that allowed
    assert np.std(params["head"]["output"]["kernel"]) == pytest.approx(0.01 * 100**-0.5, rel=0.15)
    assert np.std(params["bilinear"]["kernel"]) == pytest.approx(0.01 * (10 * 4 * 6) ** -0.5, rel=0.15)


def test_gates_learn_from_their_start():
    """The last layer moves at once, and from then on the rest."""
    shape = make_shape(0, objectives=1)
    inputs = make_inputs(shape)
    model = finalmlp.build(SMALL, shape)
    params = draw_parameters(model, inputs)["params"]
    last = params["fs1"]["output"]["kernel"]

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: model.apply({"params": p}, inputs, train=True).logits.sum())(params)

    params["fs1"]["output"]["kernel"] = 0 * last
    start = gradient(params)
    assert np.abs(start["fs1"]["output"]["kernel"]).max() > 0
    assert np.all(start["fs1_constant"] == 0)
    params["fs1"]["output"]["kernel"] = last
    assert np.abs(gradient(params)["fs1_constant"]).max() > 0


def test_identities_make_the_dot_product_of_the_streams():
    """W_3 the identity of every head, linear weights zero; whatever the number of heads."""
    random = np.random.default_rng(0)
    left, right = random.normal(size=(2, 3, 12)).astype(np.float32)
    for heads in (1, 3):
        form = finalmlp.MultiHeadBilinear(heads, 2, 1.0)
        part = 12 // heads
        kernel = np.zeros((heads, part, 2, part), np.float32)
        kernel[:, :, 0] = np.eye(part)
        made = form.apply({"params": {"kernel": kernel}}, left, right)
        # a float32 sum of 12 products
        np.testing.assert_allclose(made[:, 0], (left * right).sum(1), rtol=1e-5, atol=1e-5)
        assert np.all(np.asarray(made)[:, 1] == 0)
    shape = ModelShape(0, 3, 4, 1)
    model = finalmlp.build(
        {**SMALL, "mlp1_hidden": [6], "mlp2_hidden": [6], "use_fs": False, "fs_hidden": [800]}, shape
    )
    inputs = make_inputs(shape)
    params = draw_parameters(model, inputs, noise=0.1)["params"]
    params["bilinear"]["kernel"] = np.stack([np.eye(3, dtype=np.float32)] * 2)[:, :, None]
    params["head"] = jax.tree.map(np.zeros_like, params["head"])
    made = model.apply({"params": params}, inputs, train=False).logits[:, 0]
    rows = (inputs.embeddings * inputs.token_mask[:, :, None]).reshape(4, -1)
    streams = [[wukong_twin.mlp(row, params[name]) for row in rows] for name in ("mlp1", "mlp2")]
    np.testing.assert_allclose(made, np.sum(np.multiply(*streams), axis=1), rtol=1e-5, atol=1e-5)


def test_heads_do_not_mix():
    """Only equal parts meet: the derivative by the first part of one vector sees the first part of the other alone."""
    form = finalmlp.MultiHeadBilinear(2, 1, 1.0)
    random = np.random.default_rng(0)
    left, right = random.normal(size=(2, 1, 6)).astype(np.float32)
    kernel = random.normal(size=(2, 3, 1, 3)).astype(np.float32)
    mixed = jax.jacobian(jax.grad(lambda a, b: form.apply({"params": {"kernel": kernel}}, a, b).sum()), 1)(left, right)
    expected = np.zeros((6, 6), np.float32)
    expected[:3, :3], expected[3:, 3:] = kernel[0, :, 0], kernel[1, :, 0]
    np.testing.assert_allclose(mixed[0, :, 0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("use_fs", [True, False])
def test_count_equals_its_closed_form(use_fs):
    columns = {"fs1_context": ["user", "item"], "fs_hidden": [9]} if use_fs else {}
    shape = make_shape()
    options = {"bottom_hidden": [7], "mlp1_hidden": [8, 6], "mlp2_hidden": [10], "heads": 2, "use_fs": use_fs}
    cost = count_cost(finalmlp.build({**options, **columns}, shape), shape, batch=64)
    flat = 6 * 4
    rows = 3 * 7 + 7 * 4 + flat * 8 + 8 * 6 + flat * 10 + (6 + 10) * 2 + 2 * (3 * 5) * 2
    constant = 0
    if use_fs:
        rows += 3 * 4 * 9 + 9 * flat
        constant = 4 * 9 + 9 * flat
    assert cost.forward_macs_per_example == rows + constant / 64
    biases = 7 + 4 + 8 + 6 + 10 + 2 + use_fs * (2 * (9 + flat) + 4)
    assert cost.dense_parameters == rows + constant + biases
    assert cost.train_flops_per_example == 6 * (rows + constant / 64) - 2 * 3 * 7


@pytest.mark.parametrize("options", [{}, {"fs1_context": ["user"], "fs2_context": ["item", "city"]}])
def test_absent_tokens_reach_neither_logits_nor_gradients(options):
    shape = make_shape(objectives=1)
    assert_absent_tokens_reach_nothing(finalmlp.build({**SMALL, **options}, shape), shape)


def test_contexts_are_read_without_a_scatter():
    """An index by a list would have one for its gradient, slow on CPUs and TPUs."""
    shape = make_shape()
    model = finalmlp.build({**SMALL, "fs1_context": ["user", "city"]}, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs)

    def total(embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits.sum()

    assert "scatter" not in str(jax.make_jaxpr(jax.grad(total))(inputs.embeddings))


@pytest.mark.parametrize("place", ["embedding_dropout", "bottom_dropout", "mlp1_dropout", "mlp2_dropout"])
def test_dropout_acts_in_training_only(place):
    assert_dropout_acts_in_training_only(finalmlp.build, SMALL, place, make_shape(objectives=1))


def test_bfloat16_stays_near_float32():
    options = {**SMALL, "mlp1_hidden": [16], "mlp2_hidden": [16]}
    assert_bfloat16_stays_near_float32(finalmlp.build, options, make_shape(width=8))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"head": 2}, "did you mean 'heads'"),
        ({"heads": 0}, "heads = 0: must be at least 1"),
        ({"heads": 3}, "heads = 3: does not divide 400, the last width of mlp1_hidden"),
        ({"mlp2_hidden": [20, 25]}, "heads = 10: does not divide 25, the last width of mlp2_hidden"),
        ({"mlp1_hidden": []}, r"mlp1_hidden = \[\]: a stream needs a layer"),
        ({"mlp2_hidden": [0]}, r"mlp2_hidden = \[0\]"),
        ({"mlp2_dropout": 1.0}, "mlp2_dropout = 1.0"),
        ({"fs1_context": ["usr"]}, r"fs1_context = 'usr': no column .* known: user, item, city \(dense"),
        ({"fs2_context": [""]}, "fs2_context = ''"),
        ({"fs2_context": ["item", "item"]}, r"fs2_context = \['item', 'item'\]: a column twice"),
        ({"use_fs": False, "fs_hidden": [8]}, r"fs_hidden = \[8\]: has no effect where use_fs is False"),
        ({"use_fs": False, "fs1_context": ["user"]}, r"fs1_context = \['user'\]: has no effect where use_fs is False"),
    ],
)
def test_wrong_options_are_refused_by_name(options, word):
    assert_refused_by_name(finalmlp.build, options, word, make_shape())


def test_contexts_without_known_columns_are_refused():
    with pytest.raises(UserError, match=r"fs1_context = 'user': .* known: none"):
        finalmlp.build({"fs1_context": ["user"]}, ModelShape(3, 6, 4, 1))


def test_no_option_is_idle():
    changes = {
        **VECTOR_MODEL_CHANGES,
        **{"mlp1_hidden": [8], "mlp2_hidden": [8], "mlp1_dropout": 0.3, "mlp2_dropout": 0.3},
        **{"use_fs": {"use_fs": False, "fs_hidden": [800]}, "fs_hidden": [9], "fs1_context": ["user"]},
        **{"fs2_context": ["item"], "heads": 1},
    }
    options = {**SMALL, "mlp1_hidden": [6]}
    assert_no_model_option_is_idle(
        finalmlp.build, finalmlp.FinalMLPOptions, options, VARIANTS.values(), changes, make_shape(objectives=1)
    )
