import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmt import model as tower_model
from dmt.tower_modules import TowerModules, declare_weights
from wukong_jax.errors import UserError
from wukong_jax.models import dlrm, wukong
from wukong_jax.models.cost import count_cost
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.sharding.traffic.hlo_collectives import find_collectives

WIDTH, DENSE, ROWS = 4, 2, 5
COLUMNS = ("a", "b", "b", "c", "d", "e")  # b has two tokens
TOWERS = [["e", "a"], ["b", "d"], ["c"]]
TOKENS = [(0, 5), (1, 2, 4), (3,)]
SHAPE = ModelShape(DENSE, len(COLUMNS), WIDTH, 2, token_columns=COLUMNS)
OVER = {"over": "wukong_jax.models.dlrm:build", "over_options": {"bottom_hidden": [5], "top_hidden": [7]}}
DLRM_MODULE = {"kind": "dlrm", "token_vectors": 1, "tower_vectors": 1}


def build(module, shape=SHAPE, **options):
    return tower_model.build({"towers": TOWERS, "module": module, **OVER, **options}, shape)


def draw_batch(seed=0):
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(ROWS, SHAPE.tokens, WIDTH)).astype(np.float32)
    mask = (random.random((ROWS, SHAPE.tokens)) < 0.8).astype(np.float32)
    dense = random.normal(size=(ROWS, DENSE)).astype(np.float32)
    return ModelInputs(dense, embeddings, mask, np.zeros(ROWS, np.int32), {})


def place_in_towers(batch):
    """Arranges tokens as [T, B, F_max, D] with plain loops."""
    made = np.zeros((len(TOKENS), ROWS, 3, WIDTH), np.float32)
    for tower, tokens in enumerate(TOKENS):
        for place, token in enumerate(tokens):
            made[tower, :, place] = batch.present_embeddings[:, token]
    return made


class Parent(nn.Module):
    """A module that contains the model, as the trainer's network does."""

    model: nn.Module

    def __call__(self, inputs, *, train):
        return self.model(inputs, train=train)

    def compress(self, tokens):
        return self.model.compress(tokens)

    def finish(self, *inputs, train):
        return self.model.finish(*inputs, train=train)


def draw_variables(model, batch, seed=1):
    """Draws weights of size 1/2, with zeros in the towers' padding, in NumPy to avoid compiling an init."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: model.init(key, batch, train=False), jax.random.key(0))
    drawn = jax.tree.map(lambda leaf: (0.5 * random.normal(size=leaf.shape)).astype(np.float32), shapes)
    for name, weight in declare_weights(model.module, model.sizes).items():
        assert drawn["params"]["towers"][name].shape == weight.shape
        drawn["params"]["towers"][name] *= weight.mask()
    return drawn


@pytest.mark.parametrize(
    "module",
    [DLRM_MODULE, {"kind": "dcn", "cross_rank": 2}, {"kind": "wukong", "compression": 2, "fmb_hidden": [3]}],
    ids=lambda module: module["kind"],
)
def test_halves_for_an_exchange_equal_the_whole(module):
    model = build(module)
    batch = draw_batch()
    variables = draw_variables(model, batch)
    assert set(variables["params"]) == {"towers", "over"}
    parent, variables = Parent(model), {"params": {"model": variables["params"]}}

    def whole(variables):
        logits = parent.apply(variables, batch, train=True).logits
        return jnp.square(logits).mean(), logits

    def halves(variables):
        made = parent.apply(variables, place_in_towers(batch), method="compress")
        sent = made.transpose(1, 0, 2, 3)
        rest = batch.dense, batch.domain, batch.extras
        logits = parent.apply(variables, sent, *rest, train=True, method="finish").logits
        return jnp.square(logits).mean(), logits

    @jax.jit
    def run(variables):
        return [jax.value_and_grad(f, has_aux=True)(variables) for f in (halves, whole)]

    ((_, logits), gradients), ((_, expected), expected_gradients) = run(variables)
    # the same float32 sums in another order
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_the_dense_model_sees_towers_in_order_and_all_present():
    model, batch = build(DLRM_MODULE), draw_batch()
    variables = draw_variables(model, batch)
    over = dlrm.build(OVER["over_options"], ModelShape(DENSE, 9, WIDTH, 2))

    @jax.jit
    def run(variables):
        made = model.apply(variables, place_in_towers(batch), method="compress")
        vectors = jnp.concatenate([made[tower, :, :count] for tower, count in enumerate((3, 4, 2))], axis=1)
        params = {"params": variables["params"]["over"]}
        inputs = batch._replace(embeddings=vectors, token_mask=jnp.ones((ROWS, 9)))
        expected = over.apply(params, inputs, train=False).logits
        return model.apply(variables, batch, train=False).logits, expected

    logits, expected = run(variables)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_pass_through_is_the_plain_model_to_the_bit():
    model, plain = build({"kind": "pass_through"}), dlrm.build(OVER["over_options"], SHAPE)
    batch = draw_batch()
    variables = draw_variables(model, batch)
    assert set(variables["params"]) == {"over"}
    assert not model.compresses

    def run(method, *inputs):
        return jax.jit(lambda *inputs: model.apply(variables, *inputs, train=False, method=method).logits)(*inputs)

    plainly = jax.jit(lambda batch: plain.apply({"params": variables["params"]["over"]}, batch, train=False).logits)
    expected = plainly(batch)
    np.testing.assert_array_equal(run("__call__", batch), expected)
    sent = np.asarray(model.apply(variables, place_in_towers(batch), method="compress")).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(run("finish", sent, batch.dense, batch.domain, batch.extras), expected)


@pytest.mark.parametrize("kind", ["dlrm", "wukong"])
def test_towers_on_their_hosts_exchange_nothing_but_gradients(kind):
    """2 hosts x 4 chips, 4 unequal towers: weights and tokens lie by tower, and only chips of a host add gradients."""
    columns = tuple("abcdefghij")
    shape = ModelShape(DENSE, len(columns), WIDTH, 2, token_columns=columns)
    options = {"compression": 2} if kind == "dlrm" else {"compression": 2, "fmb_hidden": [3], "fm_rank": 2}
    model = build({"kind": kind, **options}, shape, towers=4)
    modules = TowerModules(model.module, model.sizes, jnp.float32)
    random = np.random.default_rng(0)
    tokens = random.normal(size=(4, 8, 3, WIDTH)).astype(np.float32)
    weights = {name: random.normal(size=w.shape).astype(np.float32) * w.mask() for name, w in modules.declared.items()}

    def loss(weights, tokens):
        made = modules.apply({"params": weights}, tokens)
        return jnp.square(made).sum((0, 1, 2, 3)), made

    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("host", "chip"))
    by_tower, by_row = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("host",), ("host", "chip")))
    made_by = {name: by_tower for name in weights}
    step = jax.jit(
        lambda weights, tokens: (
            modules.apply({"params": weights}, tokens),
            jax.grad(loss, has_aux=True)(weights, tokens)[0],
        ),
        in_shardings=(made_by, by_row),
        out_shardings=(by_row, made_by),
    )
    collectives = find_collectives(step.lower(weights, tokens).compile().as_text(), hosts=2, chips=4)
    assert {collective.kind for collective in collectives} == {"all-reduce"}
    assert {group for collective in collectives for group in collective.groups} == {(0, 1, 2, 3), (4, 5, 6, 7)}
    given = sum(collective.bytes for collective in collectives)
    assert given == 4 * sum(weight.size for weight in weights.values()) / 2  # each host's own half of the gradients
    made, gradients = step(weights, tokens)
    (_, expected), expected_gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights, tokens)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    for name, gradient in expected_gradients.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())


def test_towers_are_given_by_number_by_name_or_by_file(tmp_path):
    assert build(DLRM_MODULE, towers=2).towers.columns == (("a", "c", "e"), ("b", "d"))
    by_name = build(DLRM_MODULE, towers=tuple(map(tuple, TOWERS)))
    assert by_name.towers.tokens == tuple(TOKENS)
    (tmp_path / "towers.json").write_text(json.dumps({"towers": TOWERS}))
    assert build(DLRM_MODULE, towers=str(tmp_path / "towers.json")).towers == by_name.towers


def test_compression_is_told():
    assert build({"kind": "dlrm", "compression": 2}).compression == 2
    assert build(DLRM_MODULE).compression == 6 / 9
    assert build({"kind": "pass_through"}).compression == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"towers": 6}, "towers = 6: at least 1, and at most the 5 columns"),
        ({"towers": True}, "towers = True: a number of towers, a list"),
        ({"towers": [["a"], ["b"]]}, "towers: no tower holds c, d, e"),
        ({"module": {"kind": "dlrm", "compression": 3}}, "module.compression = 3: does not divide the width 4"),
        ({"module": {"kind": "dlrm", "ratio": 3}}, "module.ratio = 3: unknown key"),
        ({"over": "wukong_jax.models.dlrm:make"}, "over = 'wukong_jax.models.dlrm:make'"),
        ({"over_options": {"top_hiden": [1]}}, r"over_options.top_hiden = \[1\]: unknown key; did you mean"),
        ({"over_options": {"top_hidden": [0]}}, r"over_options.top_hidden = \[0\]: must be all at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=f"^config.model.options.{message}"):
        build(**{"module": DLRM_MODULE, **options})


def test_a_missing_file_and_data_without_columns_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"^config.model.options.towers = .*none.json': No such file"):
        build(DLRM_MODULE, towers=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="no categorical columns"):
        build(DLRM_MODULE, ModelShape(DENSE, 0, WIDTH, 2))


CRITEO = ModelShape(13, 26, 128, 1, token_columns=tuple(f"c{i}" for i in range(26)))
SHORT, FULL = [1024, 512, 256], [1024, 1024, 512, 256]


@pytest.mark.parametrize(
    ("towers", "module", "top", "flops", "published"),
    [
        *[(t, {"compression": 2}, SHORT, 8_952_704, 8.95) for t in (2, 4, 8, 26)],
        (8, {"compression": 4}, SHORT, 7_928_000, 7.93),
        (8, {"compression": 8}, SHORT, 7_415_648, 7.41),
        (8, {"compression": 16}, SHORT, 7_159_472, 7.16),
        (16, {"token_vectors": 0, "tower_vectors": 1}, SHORT, 8_753_408, 8.75),
        (8, {"compression": 2}, FULL, 15_244_160, None),
    ],
)
def test_dlrm_with_towers_costs_what_is_published(towers, module, top, flops, published):
    """FLOPs of a training row, against the MFLOP that the paper's tables 4 and 5 print.

    Two readings: what is printed fits only a top MLP of 1024-512-256-1, while the baseline's 14.74 has one of
    1024-1024-512-256-1; with the baseline's, compression 2 costs 15.24, more than the baseline itself. So what the
    paper saves in FLOPs is the dropped layer, not the towers' doing, and comparisons should keep the top the same.
    """
    over = {"bottom_hidden": [512, 256], "top_hidden": top}
    options = {"towers": towers, "module": {"kind": "dlrm", **module}, **OVER, "over_options": over}
    cost = count_cost(tower_model.build(options, CRITEO), CRITEO)
    assert cost.train_flops_per_example == flops
    if published is not None:
        assert abs(flops / 1e6 - published) < 0.01  # printed to two decimals, some cut and some rounded


@pytest.mark.parametrize(("towers", "published"), [(2, 43.71), (4, 50.01), (8, 62.60), (16, 87.19)])
def test_dcn_with_towers_costs_what_is_published(towers, published):
    """MFLOP of a training row, table 4; besides products, 5 for each number of each cross layer.

    The printed listing has an output of F_t * D numbers a tower, which would not compress; table 4 fits one vector of
    128 numbers a tower. Two cross layers of rank 256 fit to the second decimal, one of rank 512 does not.
    """
    over = {"cross_layers": 3, "cross_rank": 512, "bottom_hidden": [512, 256], "deep_hidden": FULL}
    options = {
        "towers": towers,
        "module": {"kind": "dcn", "cross_layers": 2, "cross_rank": 256, "tower_vectors": 1},
        "over": "wukong_jax.models.dcnv2:build",
        "over_options": over,
    }
    model = tower_model.build(options, CRITEO)
    crossed = 2 * 26 * 128 + 3 * (towers + 1) * 128
    cost = count_cost(model, CRITEO)
    assert model.compression == 26 / towers
    np.testing.assert_allclose((cost.train_flops_per_example + 5 * crossed) / 1e6, published, atol=0.005)


def test_any_dense_model_goes_over_the_towers():
    model = build(DLRM_MODULE, over="wukong_jax.models.wukong:build", over_options={"layers": 1})
    assert isinstance(model.over, wukong.Wukong)
    assert model.over.shape == ModelShape(DENSE, 9, WIDTH, 2)


def test_a_dense_column_never_needs_a_tower():
    model = build(DLRM_MODULE, ModelShape(0, 6, WIDTH, 2, token_columns=COLUMNS), over_options={"top_hidden": [3]})
    assert model.over.shape.dense_features == 0
