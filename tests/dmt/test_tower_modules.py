import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmt.tower_module_options import TowerModuleOptions, compute_sizes
from dmt.tower_modules import TowerModules, apply_module
from dmt.tower_weights import TowerWeight
from tests.dmt import tower_module_twins
from tests.option_checks import assert_no_option_is_idle
from wukong_jax.errors import UserError
from wukong_jax.strict_mapping import build_dataclass

D, ROWS = 4, 3
TOWERS = (3, 1, 2)  # unequal, with a tower of one token

MODULES = {
    "dlrm both branches": {"kind": "dlrm", "token_vectors": 2, "tower_vectors": 1, "width": 3},
    "dlrm tokens": {"kind": "dlrm", "compression": 2},
    "dlrm one vector": {"kind": "dlrm", "token_vectors": 0, "tower_vectors": 1},
    "dlrm one vector, all projected": {
        "kind": "dlrm",
        "token_vectors": 0,
        "tower_vectors": 1,
        "project_single": True,
    },
    "dcn": {"kind": "dcn", "cross_rank": 3},
    "dcn by compression": {"kind": "dcn", "cross_rank": 3, "cross_layers": 1, "compression": 2},
    "wukong": {"kind": "wukong", "fmb_tokens": 2, "lcb_tokens": 1, "fmb_hidden": (5,), "fmb_scale": 1.0},
    "wukong by compression": {"kind": "wukong", "compression": 2, "fmb_hidden": (5, 6), "fm_rank": 2},
    "wukong deep compression": {"kind": "wukong", "compression": 4, "fmb_hidden": ()},
    "wukong linear": {"kind": "wukong", "fmb_tokens": 0, "lcb_tokens": 2, "width": 3},
}
EVERY_MODULE = pytest.mark.parametrize("name", MODULES)
# float32 against float64 or another order of addition, at values of size 1: some 10 roundings of 6e-8, with the FM's
# division by its own deviation on top
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def build_modules(options, tokens=TOWERS):
    options = TowerModuleOptions(**options)
    return TowerModules(options, compute_sizes(options, tokens, D), jnp.float32)


def draw_tokens(tokens=TOWERS, seed=0):
    """Draws tokens [T, B, F_max, D] with zeros in the padding."""
    made = np.zeros((len(tokens), ROWS, max(tokens), D), np.float32)
    for tower, count in enumerate(tokens):
        made[tower, :, :count] = np.random.default_rng(seed + tower).normal(size=(ROWS, count, D))
    return made


def draw_weights(modules, seed=1):
    """Draws every weight outside the padding away from its initial value, so that biases matter too."""
    random = np.random.default_rng(seed)
    return {
        name: (0.5 * random.normal(size=weight.shape) * weight.mask()).astype(np.float32)
        for name, weight in modules.declared.items()
    }


class ModuleRun(NamedTuple):
    """Runs one kind of module padded and tower by tower, with the gradients of weights and tokens."""

    modules: TowerModules
    tokens: np.ndarray
    weights: dict
    made: np.ndarray
    padded_gradients: tuple
    single_gradients: tuple


@functools.cache
def run_module(name):
    modules = build_modules(MODULES[name])
    tokens, weights, sizes = draw_tokens(), draw_weights(modules), modules.sizes
    pull = np.random.default_rng(2).normal(size=(len(TOWERS), ROWS, sizes.most_vectors, sizes.vector_width))
    pull = pull.astype(np.float32)  # pulls on the padding too

    def padded(weights, tokens):
        made = modules.apply({"params": weights}, tokens)
        return (made * pull).sum(), made

    def single(weights, tokens):
        total = 0.0
        for tower, (count, vectors) in enumerate(zip(TOWERS, sizes.vectors, strict=True)):
            own = tokens[tower, :, :count]
            made = modules.apply({"params": weights}, tower, own, method="compress_tower")
            total = total + (made * pull[tower, :, :vectors]).sum()
        return total

    @jax.jit
    def run(weights, tokens):
        (value, made), gradients = jax.value_and_grad(padded, (0, 1), has_aux=True)(weights, tokens)
        return made, gradients, value, jax.value_and_grad(single, (0, 1))(weights, tokens)

    made, gradients, value, (single_value, single_gradients) = jax.tree.map(np.asarray, run(weights, tokens))
    np.testing.assert_allclose(value, single_value, rtol=1e-5, atol=1e-4)  # a sum over all rows and vectors
    return ModuleRun(modules, tokens, weights, made, gradients, single_gradients)


@EVERY_MODULE
def test_every_tower_equals_its_numpy_twin(name):
    run = run_module(name)
    modules, sizes = run.modules, run.modules.sizes
    assert run.made.shape == (len(TOWERS), ROWS, sizes.most_vectors, sizes.vector_width)
    twin = getattr(tower_module_twins, modules.options.kind)
    for tower, (count, vectors) in enumerate(zip(TOWERS, sizes.vectors, strict=True)):
        own = {
            name: weight.slice_tower(run.weights[name], tower)[0].astype(np.float64)
            for name, weight in modules.declared.items()
        }
        for row in range(ROWS):
            expected = twin(run.tokens[tower, row, :count].astype(np.float64), own, sizes.select(tower))
            np.testing.assert_allclose(run.made[tower, row, :vectors], expected, **CLOSE)
        assert not run.made[tower, :, vectors:].any()


@EVERY_MODULE
def test_padded_towers_have_the_gradients_of_single_ones(name):
    run = run_module(name)
    (weights, tokens), (single_weights, single_tokens) = run.padded_gradients, run.single_gradients
    for name, gradient in single_weights.items():
        np.testing.assert_allclose(weights[name], gradient, rtol=1e-4, atol=1e-4, err_msg=name)
    for tower, count in enumerate(TOWERS):
        own = tokens[tower, :, :count], single_tokens[tower, :, :count]
        np.testing.assert_allclose(*own, rtol=1e-4, atol=1e-4)


@EVERY_MODULE
def test_padding_of_weights_gets_no_gradient(name):
    run = run_module(name)
    padded = 0
    for weight_name, weight in run.modules.declared.items():
        padding, gradient = weight.mask() == 0, run.padded_gradients[0][weight_name]
        padded += padding.sum()
        assert not gradient[padding].any(), weight_name
        assert gradient[~padding].any(), weight_name
    assert padded > 0 or name == "dlrm tokens"  # there the tokens of a tower share one kernel


@pytest.mark.parametrize("start", ["normal", "ones", "zeros"])
def test_padding_of_weights_starts_at_zero(start):
    weight = TowerWeight(((3, 1), (2, 4)), start=start)
    values = np.asarray(weight.init(jax.random.key(0)))
    assert values.shape == weight.shape == (2, 3, 4)
    assert not values[0, :, 2:].any()
    assert not values[1, 1:].any()
    assert (values[0, :, :2] != 0).all() == (start != "zeros")


def test_lone_tokens_that_keep_their_width_need_no_weights():
    modules = build_modules(MODULES["dlrm one vector"], (1, 1))
    tokens = draw_tokens((1, 1))
    assert modules.declared == {}
    np.testing.assert_array_equal(modules.apply({}, tokens), tokens)


def test_each_towers_scale_follows_its_own_fan_in():
    weight = TowerWeight(((64, 2), (500, 500)), gain=2.0)
    values = np.asarray(weight.init(jax.random.key(0)))
    for tower, fan_in in enumerate((64, 2)):
        # the deviation of n draws is known to about 1 / sqrt(2 n): 0.4 % and 2 %
        np.testing.assert_allclose(values[tower, :fan_in].std(), (2 / fan_in) ** 0.5, rtol=0.05)
    assert not values[1, 2:].any()


def test_outputs_start_near_the_embeddings_size():
    """Wukong's block would drown the linear part, which is as small as the embeddings, had it Wukong's own start."""
    modules = build_modules({"kind": "wukong", "fmb_tokens": 8, "lcb_tokens": 8}, (6, 6))
    tokens = 0.02 * np.random.default_rng(0).normal(size=(2, 2000, 6, D)).astype(np.float32)
    made, _ = jax.jit(lambda key: modules.init_with_output(key, tokens))(jax.random.key(1))
    made = np.asarray(made)
    linear, mixed = made[:, :, 8:].std(), made[:, :, :8].std()
    assert 0.01 < linear < 0.04  # one draw of few weights: within a factor of two of 0.02
    assert linear < mixed < 2.5 * linear


def test_products_follow_the_compute_dtype():
    modules = build_modules({"kind": "dcn", "cross_rank": 3})
    weights, tokens = draw_weights(modules), draw_tokens()
    jaxpr = jax.make_jaxpr(lambda t: apply_module(modules.options, weights, t, modules.sizes))(
        tokens.astype(jnp.bfloat16)
    )
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(products) == 5
    assert all(e.outvars[0].aval.dtype == jnp.bfloat16 for e in products)


@pytest.mark.parametrize("kind", ["dlrm", "dcn", "wukong"])
@pytest.mark.parametrize("compression", [1, 2, 4, 8, 16])
def test_compression_is_met_exactly(kind, compression):
    options = TowerModuleOptions(kind, compression)
    for tokens in ((4, 4, 4, 4), (3, 3, 2, 2)) if compression < 16 else ((4, 4, 4, 4),):
        sizes = compute_sizes(options, tokens, 16)
        assert sizes.compression == compression
        # also tower by tower, so that no tower's columns are squeezed more than another's
        leaving = [count * sizes.vector_width for count in sizes.vectors]
        assert leaving == [count * 16 / compression for count in tokens]


@pytest.mark.parametrize(
    ("compression", "tokens", "width", "vectors"),
    [(2, (4, 4), 16, (2, 2)), (4, (4, 4), 16, (1, 1)), (8, (4, 4), 8, (1, 1)), (2, (3, 2), 8, (3, 2))],
)
def test_vectors_stay_as_wide_as_the_towers_allow(compression, tokens, width, vectors):
    sizes = compute_sizes(TowerModuleOptions("wukong", compression), tokens, 16)
    assert (sizes.vector_width, sizes.vectors) == (width, vectors)
    assert sizes.fmb_vectors == tuple((count + 1) // 2 for count in vectors)


def test_given_sizes_have_a_compression():
    sizes = compute_sizes(TowerModuleOptions("dlrm", token_vectors=0, tower_vectors=1), (2,) * 10 + (1,) * 6, 128)
    assert sizes.compression == 26 / 16
    assert sizes.kept == (False,) * 10 + (True,) * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "wukong", "fmb_tokens": 0, "fmb_scale": 0.1}, "fmb_scale = 0.1: has no effect where fmb_tokens is 0"),
        ({"kind": "pass_through", "compression": 2}, "compression = 2: kind 'pass_through' does not use it"),
        ({"kind": "dlrm", "cross_rank": 2}, "cross_rank = 2: kind 'dlrm' does not use it"),
        ({"kind": "dcn", "token_vectors": 2}, "token_vectors = 2: kind 'dcn' does not use it"),
        ({"kind": "wukong", "project_single": False}, "project_single = False: kind 'wukong' does not use it"),
        ({"kind": "dlrm", "compression": 2, "width": 4}, "width = 4: compression = 2 settles it"),
        ({"kind": "dlrm", "token_vectors": 0}, "token_vectors = 0: without tower_vectors nothing"),
        ({"kind": "wukong", "fmb_tokens": 0, "lcb_tokens": 0}, "fmb_tokens = 0: without lcb_tokens nothing"),
        ({"kind": "dcn", "tower_vectors": 0}, "tower_vectors = 0: nothing leaves the tower"),
        ({"kind": "dcn", "compression": 0}, "compression = 0: must be at least 1"),
        ({"kind": "wukong", "fmb_scale": 0.0}, "fmb_scale = 0.0: must be above 0"),
        ({"kind": "wukong", "fmb_hidden": [0]}, r"fmb_hidden = \[0\]: must be all at least 1"),
        ({"kind": "attention"}, "kind = 'attention': not one of"),
        ({"kind": "dcn", "rank": 2}, "rank = 2: unknown key"),
    ],
)
def test_options_out_of_place_are_refused(options, message):
    with pytest.raises(UserError, match=f"^module.{message}"):
        build_dataclass(TowerModuleOptions, options, "module")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "dlrm", "compression": 3}, "compression = 3: does not divide the width 16"),
        ({"kind": "dcn", "compression": 3}, "compression = 3: towers of 64 numbers cannot be divided by it; choose"),
        ({"kind": "wukong", "compression": 8, "width": 16}, "compression = 8: .* in vectors of width = 16"),
    ],
)
def test_compression_that_cannot_be_met_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        compute_sizes(TowerModuleOptions(**options), (4, 4), 16)


CHANGES = [
    *(("kind", {"kind": kind}) for kind in ("pass_through", "dlrm", "dcn", "wukong")),
    *(("compression", {"compression": 2}), ("width", {"width": 3}), ("token_vectors", {"token_vectors": 3})),
    *(
        ("tower_vectors", {"tower_vectors": 2}),
        ("cross_layers", {"cross_layers": 3}),
        ("cross_rank", {"cross_rank": 2}),
    ),
    *(
        ("project_single", {"project_single": True}),
        ("fmb_tokens", {"fmb_tokens": 3}),
        ("lcb_tokens", {"lcb_tokens": 3}),
    ),
    *(("fm_rank", {"fm_rank": 3}), ("fmb_hidden", {"fmb_hidden": [4]}), ("fmb_scale", {"fmb_scale": 0.5})),
]


@pytest.mark.parametrize("tokens", [TOWERS, (3, 2)], ids=["with a lone token", "without"])
def test_no_option_is_idle(tokens):
    def trace(options):
        options = build_dataclass(TowerModuleOptions, options, "module")
        modules = TowerModules(options, compute_sizes(options, tokens, D), jnp.float32)
        traced = jax.make_jaxpr(lambda key: modules.init_with_output(key, draw_tokens(tokens)))(jax.random.key(0))
        return f"{traced} {[np.asarray(constant).tolist() for constant in traced.consts]}"

    bases = [{"kind": "pass_through"}, {"kind": "dlrm", "token_vectors": 2}, *MODULES.values()]
    if tokens != TOWERS:
        bases = [base for base in bases if "project_single" not in base and base.get("compression") != 4]
    refused = [] if tokens == TOWERS else ["project_single"]
    assert_no_option_is_idle(trace, TowerModuleOptions, bases, CHANGES, refused=refused)
