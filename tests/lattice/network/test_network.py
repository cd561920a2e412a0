"""Tests the network against its NumPy twin, untied weights, absent tokens, precision, and refused options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lattice.network.float8 import round_to_float8
from lattice.network.fusion_block import build_fusion_block
from lattice.network.network import build
from lattice.network.options import LatticeOptions
from tests.lattice.network import lattice_twin
from tests.models.model_checks import trace_model
from tests.option_checks import assert_no_option_is_idle
from wukong_jax.errors import UserError
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.layers.short_sequences import shorten_sequences
from wukong_jax.models.cost import count_cost
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.models.wukong_layer import build_layer
from wukong_jax.models.wukong_options import WukongOptions

COLUMNS = ("user", "item", "past", "past", "past", "seen", "seen", "shop")
SHAPE = ModelShape(2, len(COLUMNS), 8, 3, domains=2, token_columns=COLUMNS)
FUSION = {"fmb_tokens": 3, "lcb_tokens": 2, "rank": 4, "hidden": [12]}
SMALL = {"layers": 2, "sequences": ["past", "seen"], "fusion": FUSION, "head_hidden": 5}
PLAIN = {"layers": 2, "fusion": FUSION, "head_hidden": 5}
SHALLOW = {**SMALL, "layers": 1}  # for gradients, whose compiling is most of a test's time


def make_inputs(shape=SHAPE, rows=5, seed=0):
    random = np.random.default_rng(seed)
    dense = random.normal(size=(rows, shape.dense_features)).astype(np.float32)
    embeddings = (0.5 * random.normal(size=(rows, shape.tokens, shape.width))).astype(np.float32)
    mask = (random.random((rows, shape.tokens)) < 0.7).astype(np.float32)
    mask[0] = 1
    domain = (np.arange(rows) % shape.domains).astype(np.int32)
    return ModelInputs(dense, embeddings, mask, domain, {})


def draw_variables(model, inputs, seed=0):
    """Draws every weight away from its initial value, so that weights that start at zero matter too."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))

    def draw(path, leaf):
        start = 1.0 if path[-1].key == "scale" else 0.0
        spread = 0.3 if len(leaf.shape) < 2 else leaf.shape[-2] ** -0.5
        drawn = (start + spread * random.normal(size=leaf.shape)).astype(np.float32)
        return np.abs(drawn) + 0.1 if path[-1].key == "variance" else drawn

    return jax.tree_util.tree_map_with_path(draw, shapes)


def serve(model, variables, inputs):
    return np.asarray(model.apply(variables, inputs, train=False).logits)  # not jitted: compiling costs more


CHANGES = {
    "plain": (PLAIN, {}),
    "sequences": (SMALL, {}),
    "layer norm and biases": (SMALL, {"norm": "layer", "biases": True}),
    "pooled": (SMALL, {"sequence_fusion": "pooled"}),
    "no storage": (SMALL, {"context_storage": False}),
    "all untied": (SMALL, {"untied": ["ffn", "fmb", "heads"], "biases": True}),
    "nothing untied": (SMALL, {"untied": []}),
    "mixing and dense layers": (SMALL, {"mixed_tokens": 3, "dense_tokens": 2, "dense_hidden": [6]}),
    "no hidden layer": (SMALL, {"head_hidden": 0, "domain_token": False}),
    "no context": (SMALL, {"transformer": {"context": "none", "qk_norm": False}}),
    "attention to context": (SMALL, {"transformer": {"context": "attention", "heads": 1}}),
    "gate by context": (SMALL, {"transformer": {"context": "gate", "ffn_multiple": 3}}),
    "same number of tokens": (PLAIN, {"mixed_tokens": 5}),
    "no activation after a block": (SMALL, {"fusion": {**FUSION, "output_activation": "none"}}),
    "batch norm": (SMALL, {"input_norm": "batch", "mixed_tokens": 3}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_network_equals_its_twin(name):
    options, changes = CHANGES[name]
    model, inputs = build({**options, **changes}, SHAPE), make_inputs()
    variables = draw_variables(model, inputs)
    made = serve(model, variables, inputs)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    rows = zip(*(np.asarray(array, np.float64) for array in inputs[:3]), strict=True)
    rest = exact["params"], model.options, SHAPE
    expected = np.array(
        [lattice_twin.network(row, *rest, inputs.domain[i], exact.get(STATISTICS)) for i, row in enumerate(rows)]
    )
    assert np.std(expected) > 1e-2  # else the comparison says nothing
    np.testing.assert_allclose(made, expected, rtol=2e-4, atol=2e-4 * np.std(expected))


LONG = ("user", "item", *("past",) * 8, *("seen",) * 4, "shop")


def make_short(options):
    """Returns a model of sequences of 8 and 4 events, and inputs of which at most the first quarter is present."""
    shape = dataclasses.replace(SHAPE, tokens=len(LONG), token_columns=LONG)
    inputs = make_inputs(shape)
    mask = inputs.token_mask.copy()
    mask[:, 4:10] = mask[:, 11:14] = 0
    return build(options, shape), inputs._replace(token_mask=mask)


@pytest.mark.parametrize("name", CHANGES)
def test_absent_last_events_are_left_out_without_a_change(name):
    options, changes = CHANGES[name]
    model, inputs = make_short({**options, **changes})
    if not model.short_sequences:
        assert options is PLAIN or changes["norm"] == "layer"
        return
    variables = draw_variables(model, inputs)
    whole = serve(model, variables, inputs)
    with shorten_sequences(1 / 4):
        short = serve(model, variables, inputs)
    np.testing.assert_allclose(short, whole, rtol=1e-5, atol=1e-5 * np.std(whole))


def test_left_out_events_change_no_gradient():
    model, inputs = make_short(SHALLOW)
    params = draw_variables(model, inputs)["params"]

    def find_gradients(share):
        with shorten_sequences(share):
            return jax.grad(lambda params: model.apply({"params": params}, inputs, train=False).logits.sum())(params)

    whole, short = find_gradients(1.0), find_gradients(1 / 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5), whole, short)


def test_fusion_block_is_wukongs_layer_where_their_options_agree():
    inputs = make_inputs(dataclasses.replace(SHAPE, domains=1))
    fusion = {"fmb_tokens": 3, "lcb_tokens": 2, "rank": 4, "hidden": []}
    options = {"layers": 1, "fusion": fusion, "norm": "layer", "biases": True, "head_hidden": 0}
    model = build(options, dataclasses.replace(SHAPE, domains=1, dense_features=0))
    params = draw_variables(model, inputs)["params"]
    tokens = inputs.embeddings.transpose(0, 2, 1)
    block = params["fusion_0"]
    same = {
        "lcb": block["lcb"],
        "residual": block["residual"],
        "norm": block["norm"],
        "fmb": {
            "projection": block["projection"],
            "norm": block["fm_norm"],
            "mlp": {"output": block["output"]},
        },
    }
    wukong = build_layer(WukongOptions(fmb_tokens=3, lcb_tokens=2, rank=4, fmb_hidden=()), jnp.float32)
    expected = wukong.apply({"params": same}, tokens, context=False)
    lattice = build_fusion_block(model.options.fusion, model.settings, False)
    made = lattice.apply({"params": block}, tokens, [], inputs.domain)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def test_rows_learn_their_own_domains_weights_alone():
    model, inputs = build({**SHALLOW, "untied": ["ffn", "fmb", "heads"], "biases": True}, SHAPE), make_inputs()
    variables = draw_variables(model, inputs)
    inputs = inputs._replace(domain=np.zeros_like(inputs.domain))
    gradient = jax.jit(jax.grad(lambda v: (model.apply(v, inputs, train=True).logits ** 2).sum()))(variables)["params"]
    untied = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if leaf.ndim
        and leaf.shape[0] == 2
        and {"ffn_hidden", "ffn_output", "hidden_0", "heads"} & {k.key for k in path}
    ]
    assert len(untied) >= 10
    for leaf in untied:
        assert np.abs(leaf[0]).max() > 0
        assert np.abs(leaf[1]).max() == 0


def test_absent_tokens_reach_nothing_and_every_weight_learns():
    model, inputs = build(SHALLOW, SHAPE), make_inputs()
    embeddings, mask = inputs.embeddings, inputs.token_mask
    mask[1] = 0
    variables = draw_variables(model, inputs)

    def logits(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=False).logits

    other = np.where(mask[:, :, None] == 1, embeddings, 1e3).astype(np.float32)
    np.testing.assert_array_equal(logits(variables, embeddings), logits(variables, other))
    weights, vectors = jax.jit(jax.grad(lambda v, e: (logits(v, e) ** 2).sum(), (0, 1)))(variables, embeddings)
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0, path
    vectors = np.asarray(vectors)
    assert np.isfinite(vectors).all()
    assert np.all(vectors[mask == 0] == 0)
    assert np.all(np.abs(vectors[mask == 1]).sum(-1) > 0)


def test_sequences_are_ordered_and_see_distances_alone():
    model, inputs = build(SHALLOW, SHAPE), make_inputs()
    variables = draw_variables(model, inputs)
    inputs = inputs._replace(token_mask=np.ones_like(inputs.token_mask))
    turned = inputs.embeddings.copy()
    turned[:, 2:5] = inputs.embeddings[:, [4, 3, 2]]
    made = [serve(model, variables, inputs._replace(embeddings=e)) for e in (inputs.embeddings, turned)]
    assert np.abs(made[0] - made[1]).max() > 1e-3


def test_eight_bits_of_vanishing_values_are_numbers():
    values = jnp.array([[1e-34, 0.0], [0.0, 0.0], [1e-45, 1e-38], [1e38, -3e38]], jnp.float32)
    for kind in (jnp.float8_e4m3fn, jnp.float8_e5m2):
        rounded = np.asarray(round_to_float8(values, kind, "row", 1))
        assert np.isfinite(rounded).all()
        np.testing.assert_allclose(rounded, values, rtol=0.13, atol=1e-37)


@pytest.mark.parametrize("float8", ["tensor", "row"])
def test_eight_bits_stay_near_float32_and_differ(float8):
    inputs = make_inputs(rows=64)
    options = {**PLAIN, "layers": 1}
    exact, rounded = build(options, SHAPE), build({**options, "float8": float8}, SHAPE)
    variables = draw_variables(exact, inputs)
    a, b = (serve(model, variables, inputs) for model in (exact, rounded))
    assert (
        1e-4 < np.sqrt(np.mean((a - b) ** 2)) / np.std(a) < 0.3
    )  # e4m3 has 3 bits of mantissa; some ten products deep


def test_new_network_starts_near_zero():
    model, inputs = build({**PLAIN, "layers": 1}, SHAPE), make_inputs()
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    assert 0 < np.abs(serve(model, variables, inputs)).max() < 0.2


@pytest.mark.parametrize("place", ["head_dropout", "embedding_dropout"])
def test_dropout_acts_in_training_alone(place):
    options = {**PLAIN, "layers": 1}
    model, plain, inputs = build({**options, place: 0.5}, SHAPE), build(options, SHAPE), make_inputs()
    variables = draw_variables(plain, inputs)
    np.testing.assert_array_equal(serve(model, variables, inputs), serve(plain, variables, inputs))
    made = [
        model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(seed)}).logits for seed in (0, 1)
    ]
    assert np.abs(made[0] - made[1]).max() > 1e-3


def test_untied_weights_cost_their_copies():
    shared, untied = (count_cost(build({**SMALL, "untied": u}, SHAPE), SHAPE) for u in ([], ["ffn", "fmb", "heads"]))
    one = count_cost(build({**SMALL, "untied": ["heads"]}, dataclasses.replace(SHAPE, domains=1)), SHAPE)
    assert untied.dense_parameters > shared.dense_parameters
    assert untied.train_flops_per_example > shared.train_flops_per_example > one.train_flops_per_example


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": ["nothing"]}, r"config.model.options.sequences: column 'nothing' has no token of its own"),
        ({"sequences": ["user"]}, r"column 'user' has one token; .*config.embeddings.fields.user.pooling"),
        ({"transformer": {"heads": 3}}, r"heads = 3: the embedding width 8"),
        ({"transformer": {"heads": 0}}, r"heads = 0: must be at least 1"),
        ({"fusion": {"rank": 0}}, r"rank = 0: must be at least 1"),
        ({"layers": 0}, r"layers = 0: must be at least 1"),
        ({"untied": ["heads", "heads"]}, r"untied = \['heads', 'heads'\]: none twice"),
        ({"untied": ["body"]}, r"untied"),
        ({"layers": 1, "context_storage": False}, r"context_storage = False: has no effect with one layer"),
        ({"head_hidden": 0, "head_dropout": 0.1}, r"head_dropout = 0.1: has no effect"),
        (
            {"sequences": [], "sequence_fusion": "pooled"},
            r"sequence_fusion = 'pooled': has no effect without sequences",
        ),
        ({"sequences": [], "untied": ["ffn"]}, r"untied = .*: has no effect for 'ffn' without sequences"),
        ({"norm": "batch"}, r"norm"),
        ({"nonsense": 1}, r"nonsense"),
    ],
)
def test_refuses_what_it_cannot_do(changes, message):
    with pytest.raises(UserError, match=message):
        build({**SMALL, **changes}, SHAPE)


@pytest.mark.parametrize("change", [{"untied": []}, {"untied": ["fmb", "heads"]}, {"domain_token": False}])
def test_options_of_domains_are_refused_with_one_domain(change):
    with pytest.raises(
        UserError, match=r"^config.model.options.(untied|domain_token) = .*: has no effect with one domain"
    ):
        build({**PLAIN, **change}, dataclasses.replace(SHAPE, domains=1))


TEACHER = dataclasses.replace(SHAPE, extras=(("teacher_embedding", 3),))
SWITCHES = [  # what may leave other options without an effect; one layer where it will do, for time
    PLAIN,
    {**PLAIN, "context_storage": False, "untied": []},
    {**PLAIN, "layers": 1, "head_hidden": 0, "fusion": {**FUSION, "hidden": []}},
    {**SHALLOW, "transformer": {"context": "none"}},
    {**SHALLOW, "sequence_fusion": "pooled", "norm": "layer"},
]
OPTIONS = [
    *(("layers", {"layers": 3}), ("sequences", {"sequences": ["past"]}), ("mixed_tokens", {"mixed_tokens": 4})),
    *(
        ("dense_tokens", {"dense_tokens": 3}),
        ("dense_hidden", {"dense_hidden": [4]}),
        ("domain_token", {"domain_token": False}),
    ),
    *(("transformer", {"transformer": {"context": name}}) for name in ("none", "attention", "gate")),
    *(("transformer", {"transformer": change}) for change in ({"heads": 4}, {"qk_norm": False}, {"ffn_multiple": 3})),
    *(("fusion", {"fusion": {**FUSION, name: 6}}) for name in ("fmb_tokens", "lcb_tokens", "rank")),
    ("fusion", {"fusion": {**FUSION, "hidden": [7]}}),
    ("fusion", {"fusion": {**FUSION, "output_activation": "none"}}),
    *(("sequence_fusion", {"sequence_fusion": "pooled"}), ("context_storage", {"context_storage": False})),
    *(("head_hidden", {"head_hidden": 4}), ("head_dropout", {"head_dropout": 0.3})),
    *(("embedding_dropout", {"embedding_dropout": 0.3}), ("teacher_tokens", {"teacher_tokens": 2})),
    *(("untied", {"untied": names}) for names in ([], ["ffn"], ["fmb"], ["heads", "fmb"])),
    *(("distillation_head", {"distillation_head": True}), ("norm", {"norm": "layer"}), ("biases", {"biases": True})),
    *(("float8", {"float8": "tensor"}), ("float8", {"float8": "row"}), ("input_norm", {"input_norm": "batch"})),
]


@pytest.mark.parametrize("domains", [1, 2])
def test_no_option_is_idle(domains):
    """An option that others, or a single domain, leave without an effect is refused."""
    shape = dataclasses.replace(TEACHER, domains=domains)
    trace = trace_model(build, shape, {"teacher_embedding": np.ones((4, 3), np.float32)})
    of_domains = ("untied", "domain_token")
    bases = SWITCHES if domains > 1 else [PLAIN, SHALLOW]
    assert_no_option_is_idle(trace, LatticeOptions, bases, OPTIONS, refused=of_domains if domains == 1 else ())
