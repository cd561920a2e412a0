"""Checks that every model has to pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.baseline_twin import make_inputs
from tests.models.random_parameters import draw_parameters
from tests.option_checks import assert_no_option_is_idle
from wukong_jax.errors import UserError
from wukong_jax.models.cost import count_cost

# Another value of each option that every model over vectors has, for `assert_no_model_option_is_idle`.
VECTOR_MODEL_CHANGES = {
    "bottom_hidden": [8],
    "bottom_output_activation": "none",
    "bottom_output_scale": 0.3,
    "bottom_dropout": 0.3,
    "mlp_biases": False,
    "embedding_dropout": 0.3,
    "head_output_scale": 0.5,
    "embedding_norm": True,
    "mlp_norm": "layer",
}


def assert_equals_twin(model, shape, twin, rtol=2e-4):
    """Compares the module with `twin(dense [F_dense], embeddings [N, D], mask [N], params, options) -> [O]` by row."""
    inputs = make_inputs(shape)
    inputs.token_mask[0] = 1
    variables = draw_parameters(model, inputs, noise=0.1)
    made = model.apply(variables, inputs, train=False)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.get("params", {}))
    rows = zip(*(np.asarray(a, np.float64) for a in inputs[:3]), strict=True)
    expected = np.array([twin(*row, params, model.options) for row in rows])
    assert made.logits.dtype == jnp.float32
    assert made.logits.shape == (len(expected), shape.objectives)
    assert made.aux == {}
    assert np.std(expected) > 1e-3  # else the comparison says nothing
    np.testing.assert_allclose(made.logits, expected, rtol=rtol, atol=rtol * np.std(expected))


def assert_absent_tokens_reach_nothing(model, shape, silent=()):
    """Checks that absent tokens affect no logit or gradient, but other tokens and all weights except `silent` do."""
    inputs = make_inputs(shape)
    embeddings, mask = inputs.embeddings, inputs.token_mask
    mask[0], mask[1, 0] = 0, 0
    variables = draw_parameters(model, inputs, noise=0.1)

    def logits(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits

    other = np.where(mask[:, :, None] == 1, embeddings, 1e3).astype(np.float32)
    np.testing.assert_array_equal(logits(variables, embeddings), logits(variables, other))
    assert np.abs(logits(variables, embeddings) - logits(variables, 2 * embeddings)).max() > 1e-4
    weights, vectors = jax.jit(jax.grad(lambda v, e: (logits(v, e) ** 2).sum(), (0, 1)))(variables, embeddings)
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0 or path[-1].key in silent or path[-2].key in silent, path
    assert np.all(np.asarray(vectors)[mask == 0] == 0)
    assert np.all(np.abs(np.asarray(vectors)[mask == 1]).sum(-1) > 0)


def assert_rows_of_absent_tokens_are_finite(model, shape):
    """Checks logits' gradients where a row has no token at all, whose norms divide by the root of epsilon."""
    inputs = make_inputs(shape)
    inputs = inputs._replace(token_mask=0 * inputs.token_mask)
    variables = draw_parameters(model, inputs)

    def total(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits.sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total, (0, 1)))(variables, inputs.embeddings)):
        assert np.isfinite(leaf).all()


def assert_dropout_acts_in_training_only(build, options, place, shape):
    """Checks that serving ignores the dropout rate and that training is a function of the key."""
    model, plain = build({**options, place: 0.5}, shape), build(options, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs)

    def train(seed):
        return model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(seed)}).logits

    served = [m.apply(variables, inputs, train=False).logits for m in (model, plain)]
    np.testing.assert_array_equal(*served)
    np.testing.assert_array_equal(train(0), train(0))
    assert np.abs(train(0) - train(1)).max() > 1e-4


def assert_bfloat16_stays_near_float32(build, options, shape, most=0.03):
    """Checks that the difference is within a dozen roundings of 2**-9 each, and above 0."""
    shapes = [dataclasses.replace(shape, compute_dtype=name) for name in ("float32", "bfloat16")]
    inputs = make_inputs(shape, rows=64)
    exact, rounded = (build(options, shape) for shape in shapes)
    variables = draw_parameters(exact, inputs)
    first, second = (model.apply(variables, inputs, train=False).logits for model in (exact, rounded))
    assert second.dtype == jnp.float32
    assert 1e-5 < np.sqrt(np.mean((first - second) ** 2)) / np.std(first) < most
    gradient = jax.eval_shape(jax.grad(lambda v: rounded.apply(v, inputs, train=True).logits.sum()), variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))


def assert_no_model_option_is_idle(build, kind, small, variants, changes, shape, exempt=lambda options, name: False):
    """Checks that every option, over every variant, changes the traced model or is refused.

    Args:
      build: the model's factory.
      kind: dataclass of its options.
      small: options of all variants.
      variants: further options, one mapping a variant.
      changes: name to another value, or to a mapping of options where one needs others; every field of `kind`.
      shape: with dense columns and embeddings.
      exempt: see `assert_no_option_is_idle`.
    """
    bases = [{**small, **variant} for variant in variants]
    pairs = [(name, change if is_mapping_of(name, change) else {name: change}) for name, change in changes.items()]
    assert_no_option_is_idle(trace_model(build, shape), kind, bases, pairs, exempt)


def is_mapping_of(name, change):
    return isinstance(change, dict) and name in change


def trace_model(build, shape, extras=None):
    """Options to the traced start and training pass, as text."""
    inputs = make_inputs(shape)._replace(extras=extras or {})
    key = jax.random.key(0)

    def run(model, key, inputs):
        variables = model.init(key, inputs, train=False)
        return variables, model.apply(variables, inputs, train=True, rngs={"dropout": key}, mutable=True)

    def fingerprint(options):
        model = build(options, shape)
        return str(jax.make_jaxpr(lambda key, inputs: run(model, key, inputs))(key, inputs))

    return fingerprint


def assert_refused_by_name(build, options, word, shape):
    """Checks that the factory refuses the options in one line with the full key and the given words."""
    with pytest.raises(UserError, match=word) as caught:
        build(options, shape)
    assert str(caught.value).startswith("config.model.options.")
    assert "\n" not in str(caught.value)


def assert_cost_agrees_with_xla(model, shape, least=0.98, most=1.05):
    """Compares costs with XLA's, which also count biases, activations and norms (few per value)."""
    inputs = make_inputs(shape, rows=256)
    cost = count_cost(model, shape)
    variables = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))

    def logits(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=False).logits

    counted = jax.jit(logits).lower(variables, inputs.embeddings).compile().cost_analysis()["flops"] / 256
    assert least < counted / cost.forward_flops_per_example < most
