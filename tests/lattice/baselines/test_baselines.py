"""Tests the multi-domain, multi-task baselines: NumPy twins, statistics, gradients, costs, one training step each."""

import dataclasses
import importlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.lattice.baselines import baselines_twin
from tests.models.model_checks import VECTOR_MODEL_CHANGES, assert_no_model_option_is_idle
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.models.cost import count_cost
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.optimizers import build_schedule
from wukong_jax.training.run import build_run
from wukong_jax.training.state import init_train_state
from wukong_jax.training.step import build_train_step

COLUMNS = ("user", "item", "item", "shop")
SHAPE = ModelShape(2, len(COLUMNS), 4, objectives=2, domains=2, token_columns=COLUMNS)
BASE = {"bottom_hidden": [5], "head_output_scale": 1.0}
TOWERS = {**BASE, "tower_hidden": [6]}
EXPERTS = {**TOWERS, "expert_hidden": [7]}
MODELS = {
    "separate": TOWERS,
    "shared_bottom": {**TOWERS, "shared_hidden": [7]},
    "mmoe": {**EXPERTS, "experts": 3},
    "ple": {**EXPERTS, "shared_experts": 1},
    "adatt": EXPERTS,
    "star": {**BASE, "star_hidden": [6, 5], "auxiliary_hidden": [3]},
    "pepnet": {**TOWERS, "prior_columns": ["item"], "gate_units": 5},
}
OF_OBJECTIVES = {"tasks": "objectives"}
NORMS = {"embedding_norm": True, "mlp_norm": "layer"}
VARIANTS = [
    *((name, {}) for name in MODELS),
    ("separate", {"bottom_output_activation": "none", "tower_hidden": [6, 5]}),
    ("shared_bottom", {"shared_hidden": [7, 6], "tower_hidden": [], **OF_OBJECTIVES}),
    ("mmoe", OF_OBJECTIVES),
    ("ple", {"levels": 1, "shared_experts": 2, "task_experts": 1, **OF_OBJECTIVES}),
    ("ple", {"expert_hidden": [7, 6], **NORMS, **OF_OBJECTIVES}),
    ("adatt", {"levels": 3, "task_experts": 1, **OF_OBJECTIVES}),
    ("star", {"mlp_biases": False, "auxiliary_hidden": [], **NORMS}),
    ("pepnet", {"tasks": "portfolios", "tower_hidden": [6, 5], "prior_columns": ["shop", "user"]}),
    ("pepnet", {"prior_columns": [], "mlp_biases": False, **NORMS}),
]


def build(name, changes=(), shape=SHAPE):
    module = importlib.import_module(f"lattice.baselines.{name}")
    return module.build({**MODELS[name], **dict(changes)}, shape)


def make_inputs(shape=SHAPE, rows=6, seed=0):
    """Builds a model's inputs; the second row has no tokens, as in padding."""
    random = np.random.default_rng(seed)
    dense = random.normal(size=(rows, shape.dense_features)).astype(np.float32)
    embeddings = (0.5 * random.normal(size=(rows, shape.tokens, shape.width))).astype(np.float32)
    mask = (random.random((rows, shape.tokens)) < 0.7).astype(np.float32)
    mask[0], mask[1:2] = 1, 0
    domain = (np.arange(rows) // 2 % shape.domains).astype(np.int32)
    return ModelInputs(dense, embeddings, mask, domain, {})


def draw_params(model, inputs, seed=0):
    """Draws every weight away from its initial value, so that weights that start at zero or one matter too."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))["params"]

    def draw(path, leaf):
        start = 1.0 if "scale" in path[-1].key or path[-1].key == "domain_kernel" else 0.0
        spread = leaf.shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.3
        return (start + spread * random.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def draw_statistics(name, model, seed=1):
    """Draws a model's running statistics, which only STAR has."""
    if name != "star":
        return {}
    random, shape = np.random.default_rng(seed), model.shape
    sizes = (shape.domains, (shape.tokens + (shape.dense_features > 0)) * shape.width)
    mean, variance = random.normal(size=sizes), random.uniform(0.1, 2, size=sizes)
    kept = {"mean": mean, "variance": variance, "batches": np.full(shape.domains, 9)}
    return {STATISTICS: {"partitioned_norm": {key: value.astype(np.float32) for key, value in kept.items()}}}


def run_twin(name, model, params, inputs, *more):
    """Computes the twin's logits [B, O]."""
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows = zip(*(np.asarray(array, np.float64) for array in inputs[:3]), strict=True)
    twin = getattr(baselines_twin, name)
    return np.array(
        [
            twin(row, exact, model.options, model.shape, domain, *more)
            for row, domain in zip(rows, inputs.domain, strict=True)
        ]
    )


def jit(function):
    """Compiles as one program; op by op takes several times as long, nearly all of it for compiling."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def serve(model, variables, inputs):
    """Computes the outputs at test time."""
    return jit(lambda variables, inputs: model.apply(variables, inputs, train=False))(variables, inputs)


def assert_near(made, expected):
    assert np.std(expected) > 1e-2  # else the comparison says nothing
    # float32 rounding (1e-7) through a dozen sums of under 40 terms, exponentials and divisions by deviations
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4 * np.std(expected))


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_model_equals_its_twin(name, changes):
    model, inputs = build(name, changes), make_inputs()
    params, statistics = draw_params(model, inputs), draw_statistics(name, model)
    made = serve(model, {"params": params, **statistics}, inputs)
    assert made.logits.dtype == jnp.float32
    assert made.aux == {}
    kept = statistics[STATISTICS]["partitioned_norm"] if statistics else None
    more = [(kept["mean"], kept["variance"])] if kept else []
    assert_near(made.logits, run_twin(name, model, params, inputs, *more))


@pytest.mark.parametrize("name", ["shared_bottom", "star", "pepnet"])
def test_one_domain_and_no_dense_columns_are_a_model_too(name):
    shape = dataclasses.replace(SHAPE, dense_features=0, domains=1)
    model, inputs = build(name, shape=shape), make_inputs(shape)
    params, statistics = draw_params(model, inputs), draw_statistics(name, model)
    assert "domain_token" not in params
    made = serve(model, {"params": params, **statistics}, inputs)
    kept = statistics[STATISTICS]["partitioned_norm"] if statistics else None
    more = [(kept["mean"], kept["variance"])] if kept else []
    assert_near(made.logits, run_twin(name, model, params, inputs, *more))


# The others are made of these models' parts.
@pytest.mark.parametrize("name", ["ple", "adatt", "star", "pepnet"])
def test_absent_tokens_reach_nothing_and_every_weight_learns(name):
    model, inputs = build(name), make_inputs()
    embeddings, mask = inputs.embeddings, inputs.token_mask
    variables = draw_params(model, inputs)
    statistics = draw_statistics(name, model)

    def logits(params, embeddings):
        changed = inputs._replace(embeddings=embeddings)
        outputs, _ = model.apply({"params": params, **statistics}, changed, train=True, mutable=[STATISTICS])
        return outputs.logits

    # all rows at once: in training STAR's rows see each other, present tokens alone
    other = np.where(mask[:, :, None] == 1, embeddings, 1e3).astype(np.float32)
    gradient = jit(jax.grad(lambda params, e: (logits(params, e) ** 2).sum(), (0, 1)))
    weights, vectors = gradient(variables, embeddings)
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    assert np.all(np.asarray(vectors)[mask == 0] == 0)
    assert np.all(np.abs(np.asarray(vectors)[mask == 1]).sum(-1) > 0)
    for ours, theirs in zip(jax.tree.leaves(weights), jax.tree.leaves(gradient(variables, other)[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["shared_bottom", "pepnet"])
def test_rows_teach_their_own_domains_towers_alone(name):
    model, inputs = build(name, {"tasks": "portfolios"}), make_inputs()
    params = draw_params(model, inputs)
    inputs = inputs._replace(domain=np.zeros_like(inputs.domain))
    key = "tower_output" if name == "pepnet" else "towers"

    def loss(towers):
        return (model.apply({"params": params | {key: towers}}, inputs, train=False).logits ** 2).sum()

    for leaf in jax.tree.leaves(jit(jax.grad(loss))(params[key])):
        by_domain = np.asarray(leaf).reshape(SHAPE.domains, SHAPE.objectives, -1)
        assert np.all(np.abs(by_domain[0]).max(-1) > 0)
        assert np.all(by_domain[1] == 0)


@pytest.mark.parametrize("changes", [{}, {"prior_columns": []}])
def test_pepnets_gates_pass_no_gradient_to_what_they_only_watch(changes):
    model, inputs = build("pepnet", changes), make_inputs(rows=1)
    params = draw_params(model, inputs)

    def total(embeddings):
        return model.apply({"params": params}, inputs._replace(embeddings=embeddings), train=False).logits.sum()

    made = jit(jax.grad(total))(inputs.embeddings)
    row = [np.asarray(array[0], np.float64) for array in inputs[:3]]
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected, watching = np.zeros((2, *inputs.embeddings.shape[1:]))
    for place in np.ndindex(expected.shape):
        moved = [np.array(row[1]) for _ in range(2)]
        for sign, vectors in zip((1, -1), moved, strict=True):
            vectors[place] += sign * 1e-5
            nearby = (row[0], vectors, row[2])
            for into, watched in ((expected, row), (watching, nearby)):
                logits = baselines_twin.pepnet(nearby, exact, model.options, SHAPE, inputs.domain[0], watched)
                into[place] += sign * logits.sum() / 2e-5
    np.testing.assert_allclose(made[0], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - watching).max() > 1e-2  # the gradient through the gates would show


def train_star(momentum):
    """Runs three batches: domain 2 is only in the last one, with one row; each batch has a row without tokens.

    Returns:
      The model, its params, the batches, their logits, the variables after each.
    """
    shape = dataclasses.replace(SHAPE, domains=3)
    model = build("star", {"statistics_momentum": momentum}, shape)
    batches = []
    for seed in range(3):
        inputs = make_inputs(shape, rows=8, seed=seed)
        domain = np.array([0, 0, 0, 1, 1, 1, 1, 2 if seed == 2 else 0], np.int32)
        batches.append(inputs._replace(embeddings=inputs.embeddings + seed, domain=domain))
    params = draw_params(model, batches[0])
    start = jax.eval_shape(lambda key: model.init(key, batches[0], train=False), jax.random.key(0))[STATISTICS]
    assert {leaf.dtype for leaf in jax.tree.leaves(start)} == {np.dtype(np.float32)}
    # an init that trains writes nothing
    statistics = jit(lambda: model.init(jax.random.key(0), batches[0], train=True)[STATISTICS])()
    step = jit(lambda variables, batch: model.apply(variables, batch, train=True, mutable=[STATISTICS]))
    made, kept = [], [statistics]
    for batch in batches:
        outputs, changed = step({"params": params, STATISTICS: kept[-1]}, batch)
        made.append(np.asarray(outputs.logits))
        kept.append(changed[STATISTICS])
    return model, params, batches, made, [one["partitioned_norm"] for one in kept]


def test_stars_statistics_are_moving_averages_by_domain_and_serve():
    model, params, batches, made, kept = train_star(momentum=0.6)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    means, variances, counts = [], [], []
    for batch, logits in zip(batches, made, strict=True):
        rows = zip(*(np.asarray(array, np.float64) for array in batch[:3]), strict=True)
        inputs = np.array([baselines_twin.input_vectors(row, exact, model.options).reshape(-1) for row in rows])
        filled = batch.token_mask.any(axis=1)
        count, mean, variance = baselines_twin.batch_moments(inputs[filled], batch.domain[filled], 3)
        assert_near(logits[filled], run_twin("star", model, params, batch, (mean, variance))[filled])
        counts.append(count)
        means.append(mean)
        variances.append(variance)
    np.testing.assert_array_equal(np.array(counts), [[3, 4, 0], [3, 4, 0], [2, 4, 1]])
    unbiased = [v * (c / np.maximum(c - 1, 1))[:, None] for v, c in zip(variances, counts, strict=True)]
    for name, moments in (("mean", means), ("variance", unbiased)):
        start, first, second, third = (np.asarray(one[name]) for one in kept)
        np.testing.assert_array_equal(start, np.full(start.shape, float(name == "variance")))
        expected = [moments[0], (moments[0] + moments[1]) / 2]
        expected.append(0.6 * expected[1] + 0.4 * moments[2])  # 1 / 3 would fall below 1 - 0.6
        for got, wanted in zip((first, second, third), expected, strict=True):
            np.testing.assert_allclose(got[:2], wanted[:2], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(got[2], start[2])  # no rows, no rows, one row
    np.testing.assert_array_equal(kept[3]["batches"], [3, 3, 0])

    served = serve(model, {"params": params, STATISTICS: {"partitioned_norm": kept[3]}}, batches[2])
    moments = tuple(np.asarray(kept[3][name], np.float64) for name in ("mean", "variance"))
    expected = run_twin("star", model, params, batches[2], moments)
    assert_near(served.logits, expected)
    assert np.abs(expected - made[2]).max() > 1e-2  # not what training made of the same rows


def test_new_domains_of_star_start_as_the_shared_network_and_its_logits_small():
    model, inputs = build("star", {"head_output_scale": 0.01}), make_inputs()
    variables = jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    layer = variables["params"]["star_0"]
    np.testing.assert_array_equal(layer["domain_kernel"], np.ones((2, 20, 6)))
    assert np.std(layer["kernel"]) > 0
    variables["params"]["domain_token"] = jnp.ones((2, 4))
    apply = jit(lambda inputs: model.apply(variables, inputs, train=False).logits)
    first, second = apply(inputs), apply(inputs._replace(domain=1 - inputs.domain))
    np.testing.assert_array_equal(first, second)
    assert 0 < np.abs(first).max() < 0.1  # two outputs of 0.01 times numbers near 1, a Gaussian's largest of 12


@pytest.mark.parametrize("name", ["mmoe", "pepnet"])
def test_the_start_depends_on_the_logits_scale(name):
    inputs, key = make_inputs(), jax.random.key(0)

    def start(scale):
        model = build(name, {"head_output_scale": scale})
        return str(jax.make_jaxpr(lambda key: model.init(key, inputs, train=False)["params"])(key))

    assert start(0.5) != start(1.0)


@pytest.mark.parametrize("name", ["ple", "adatt", "star", "pepnet"])
def test_products_in_bfloat16_leave_weights_and_logits_float32(name):
    model, inputs = build(name, shape=dataclasses.replace(SHAPE, compute_dtype="bfloat16")), make_inputs()
    variables = {"params": draw_params(model, inputs), **draw_statistics(name, model)}

    def loss(params):
        outputs, changed = model.apply({**variables, "params": params}, inputs, train=True, mutable=[STATISTICS])
        return outputs.logits.sum(), (outputs.logits, changed)

    traced = jax.make_jaxpr(jax.grad(loss, has_aux=True))(variables["params"])
    assert {aval.dtype for aval in traced.out_avals} == {np.dtype(np.float32)}
    assert str(traced).count("bf16") > 20


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("separate", "tower_dropout"),
        ("shared_bottom", "shared_dropout"),
        ("mmoe", "expert_dropout"),
        ("ple", "expert_dropout"),
        ("adatt", "expert_dropout"),
        ("star", "star_dropout"),
        ("star", "auxiliary_dropout"),
        ("star", "statistics_momentum"),
        ("pepnet", "tower_dropout"),
    ],
)
def test_options_of_training_change_training_alone(name, place):
    inputs, key = make_inputs(), jax.random.key(0)
    models = build(name), build(name, {place: 0.3})
    variables = jax.eval_shape(lambda key: models[0].init(key, inputs, train=False), key)

    def train(model):
        traced = jax.make_jaxpr(lambda v: model.apply(v, inputs, train=True, rngs={"dropout": key}, mutable=STATISTICS))
        return str(traced(variables))

    def serve_without_keys(model):
        return str(jax.make_jaxpr(lambda v: model.apply(v, inputs, train=False))(variables))

    assert train(models[0]) != train(models[1])
    assert serve_without_keys(models[0]) == serve_without_keys(models[1])


BOTTOM = 2 * 5 + 5 * 4
TOKEN = 2 * 4  # choosing a row's domain token
MACS = {  # 20 numbers enter, 4 portfolios; by hand
    "separate": 4 * (20 * 6 + 6),
    "shared_bottom": 20 * 7 + 4 * (7 * 6 + 6),
    "mmoe": 3 * 20 * 7 + 4 * (20 * 3 + 3 * 7) + 4 * (7 * 6 + 6),
    # tasks' experts, shared expert, gates, mixtures; the first level's shared gate mixes 9; towers
    "ple": (8 + 1) * (20 + 7) * 7 + 4 * 3 * (20 + 7) + 2 * 4 * 3 * 7 + 9 * (20 + 7) + 4 * (7 * 6 + 6),
    # experts, gates, mixtures of all and of the own, towers
    "adatt": 8 * (20 + 7) * 7 + 4 * 8 * (20 + 7) + 2 * (4 * 8 * 7 + 4 * 2 * 7) + 4 * (7 * 6 + 6),
    # moments, what each row takes of them; layers of both domains; auxiliary network; biases and token chosen
    "star": 3 * 40 + 3 * 40 + 2 * (20 * 6 + 6 * 5 + 5 * 2) + 24 * 3 + 3 * 2 + 2 * (6 + 5 + 2) + TOKEN,
    # EPNet, PPNet, towers of two objectives
    "pepnet": 24 * 5 + 5 * 20 + (8 + 20) * 5 + 5 * 12 + 2 * (20 * 6 + 6) + TOKEN,
}


@pytest.mark.parametrize("name", MODELS)
def test_count_equals_its_closed_form(name):
    model = build(name)
    cost = count_cost(model, SHAPE, batch=64)
    assert cost.forward_macs_per_example == BOTTOM + MACS[name]
    params = draw_params(model, make_inputs())
    assert cost.dense_parameters == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert 4 < cost.train_flops_per_example / cost.forward_macs_per_example <= 6


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        *((name, {"nonsense": 1}, "nonsense = 1: unknown key") for name in MODELS),
        ("shared_bottom", {"tasks": "domains"}, "tasks = 'domains': not one of 'objectives', 'portfolios'"),
        ("separate", {"tasks": "portfolios"}, "tasks = 'portfolios': unknown key"),
        ("shared_bottom", {"shared_hidden": []}, r"shared_hidden = \[\]: needs a layer"),
        ("mmoe", {"expert_hidden": []}, r"expert_hidden = \[\]: needs a layer"),
        ("mmoe", {"experts": 0}, "experts = 0: must be at least 1"),
        ("ple", {"levels": 0}, "levels = 0: must be at least 1"),
        ("ple", {"shared_experts": 0}, "shared_experts = 0: must be at least 1"),
        ("ple", {"expert_dropout": 1.0}, "expert_dropout = 1.0: must be at least 0 and below 1"),
        ("adatt", {"task_experts": 0}, "task_experts = 0: must be at least 1"),
        ("separate", {"tower_hidden": [], "tower_dropout": 0.1}, "tower_dropout = 0.1: has no effect without"),
        ("star", {"star_hidden": []}, r"star_hidden = \[\]: needs a layer"),
        ("star", {"statistics_momentum": 1.0}, "statistics_momentum = 1.0: must be at least 0 and below 1"),
        ("pepnet", {"prior_columns": ["itme"]}, "prior_columns = 'itme': no column .*known: user, item, shop"),
        ("pepnet", {"prior_columns": ["item", "item"]}, r"prior_columns = \['item', 'item'\]: a column twice"),
        ("pepnet", {"tower_hidden": []}, r"tower_hidden = \[\]: needs a layer"),
        ("pepnet", {"gate_units": 0}, "gate_units = 0: must be at least 1"),
    ],
)
def test_refuses_what_it_cannot_do(name, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        build(name, changes)
    assert str(caught.value).startswith("config.model.options.")
    assert "\n" not in str(caught.value)


def test_pepnet_wants_to_be_told_its_priors():
    options = {key: value for key, value in MODELS["pepnet"].items() if key != "prior_columns"}
    with pytest.raises(UserError, match=r"config.model.options.prior_columns: missing; add it"):
        importlib.import_module("lattice.baselines.pepnet").build(options, SHAPE)


ROWS = 16


def make_run(name):
    """Builds a training run with two shops and two objectives."""
    schema = Schema(
        name="made_up",
        source=Source(format="csv"),
        labels=(LabelColumn("click"), LabelColumn("buy")),
        dense=(DenseColumn("age"),),
        categorical=(CategoricalColumn("user", rows=20), CategoricalColumn("item", rows=30)),
        domain="shop",
        domain_values=("north", "south"),
    )
    config = {
        "name": "step",
        "data": {"format": "blocks", "path": "unused"},
        "embeddings": {"width": 4, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.05}},
        "model": {"factory": f"lattice.baselines.{name}:build", "options": MODELS[name]},
        "optimizer": {"learning_rate": 0.01},
        "training": {"batch_size": ROWS, "evaluation_batch_size": ROWS, "steps": 10},
        "mesh": {"hosts": 1, "chips": 1},
    }
    return build_run(build_run_config(config), schema)


def make_batch(padding):
    random = np.random.default_rng(0)
    ids, weight = random.integers(0, 20, (ROWS, 2)).astype(np.int32), np.ones(ROWS, np.float32)
    domain = np.ones(ROWS, np.int32)
    ids[ROWS - padding :], weight[ROWS - padding :], domain[ROWS - padding :] = -1, 0, 0
    return Batch(
        dense=random.normal(size=(ROWS, 1)).astype(np.float32) * weight[:, None],
        ids=ids,
        labels=random.integers(0, 2, (ROWS, 2)).astype(np.float32),
        label_mask=np.ones((ROWS, 2), np.float32),
        domain=domain,
        group=np.zeros(ROWS, np.int32),
        timestamp=np.zeros(ROWS, np.int64),
        weight=weight,
        extras={},
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_trainers_step_takes_the_model(name):
    run = make_run(name)
    step = build_train_step(run.network, run.exchange, run.optimizer, build_schedule(run.config.optimizer))
    state, batch = run.abstract_inputs()
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert metrics["loss_sum"].shape == ()
    assert len(jax.tree.leaves(state.statistics.get("model", {}))) == (3 if name == "star" else 0)


def test_a_step_of_star_moves_the_statistics_of_its_rows_domain():
    run = make_run("star")
    step = build_train_step(run.network, run.exchange, run.optimizer, build_schedule(run.config.optimizer))
    state = jit(lambda: init_train_state(run.network, run.shape, run.exchange, run.optimizer, seed=0))()
    before = state.statistics["model"]["partitioned_norm"]
    state, metrics = jit(step)(state, put_batch(make_batch(padding=3), run.mesh))
    assert float(metrics["finite"]) == 1
    after = state.statistics["model"]["partitioned_norm"]
    np.testing.assert_array_equal(after["batches"], [0, 1])  # the other domain has nothing but padding
    for name in ("mean", "variance"):
        np.testing.assert_array_equal(after[name][0], before[name][0])
        # the first four are the dense column's, whose units may be dead
        assert np.abs(after[name][1] - before[name][1])[4:].min() > 0


OWN_CHANGES = {  # beside those of every model with vectors
    "tower_hidden": [8],
    "tower_dropout": 0.3,
    "tasks": "objectives",
    "shared_hidden": [8],
    "shared_dropout": 0.3,
    "experts": 2,
    "expert_hidden": [8],
    "expert_dropout": 0.3,
    "levels": 3,
    "shared_experts": 3,
    "task_experts": 3,
    "star_hidden": [8],
    "star_dropout": 0.3,
    "auxiliary_hidden": [8],
    "auxiliary_dropout": 0.3,
    "statistics_momentum": 0.5,
    "prior_columns": ["user"],
    "gate_units": 6,
}
SWITCHES = [{"tower_hidden": []}, {"auxiliary_hidden": []}, {"levels": 1}, {"task_experts": 1}, {"prior_columns": []}]


@pytest.mark.parametrize("name", MODELS)
def test_no_option_is_idle(name):
    module = importlib.import_module(f"lattice.baselines.{name}")
    kind = next(value for key, value in vars(module).items() if key.lower() == f"{name.replace('_', '')}options")
    fields = {field.name for field in dataclasses.fields(kind)}
    changes = VECTOR_MODEL_CHANGES | {key: value for key, value in OWN_CHANGES.items() if key in fields}
    changes |= {"tasks": "portfolios"} if name == "pepnet" else {}
    variants = [{}, *(switch for switch in SWITCHES if switch.keys() <= fields and not refuses(name, switch))]
    assert_no_model_option_is_idle(module.build, kind, MODELS[name], variants, changes, SHAPE)


def refuses(name, changes):
    try:
        build(name, changes)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("name", ["shared_bottom", "mmoe", "ple", "adatt", "pepnet"])
def test_tasks_are_refused_with_one_domain(name):
    tasks = "portfolios" if name == "pepnet" else "objectives"
    with pytest.raises(UserError, match=f"options.tasks = '{tasks}': has no effect with one domain; leave it out"):
        build(name, {"tasks": tasks}, dataclasses.replace(SHAPE, domains=1))
