"""Checks that every model has to pass, written once."""

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

# Another value of each option that every `VectorModel` has, for `assert_no_model_option_is_idle`.
VECTOR_MODEL_CHANGES = {
    "bottom_hidden": [8],
    "bottom_output_activation": "none",
    "bottom_output_scale": 0.3,
    "bottom_dropout": 0.3,
    "mlp_biases": False,
    "embedding_dropout": 0.3,
    "head_output_scale": 0.5,
    "embedding_norm": True,
    "mlp_norm": True,
}


def assert_equals_twin(model, shape, twin, rtol=2e-4):
    """The module against `twin(dense [F_dense], embeddings [N, D], mask [N], params, options) -> [O]`, row by row."""
    inputs = make_inputs(shape)
    inputs[2][0] = 1
    variables = draw_parameters(model, inputs, noise=0.1)
    made = model.apply(variables, *inputs, train=False)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables.get("params", {}))
    rows = zip(*(np.asarray(a, np.float64) for a in inputs[:3]), strict=True)
    expected = np.array([twin(*row, params, model.options) for row in rows])
    assert made.logits.dtype == jnp.float32
    assert made.logits.shape == (len(expected), shape.objectives)
    assert made.aux == {}
    assert np.std(expected) > 1e-3  # else the comparison says nothing
    np.testing.assert_allclose(made.logits, expected, rtol=rtol, atol=rtol * np.std(expected))


def assert_absent_tokens_reach_nothing(model, shape, silent=()):
    """Neither logits nor gradients see an absent token; every other token and every weight but `silent` gets some."""
    dense, embeddings, mask, *rest = make_inputs(shape)
    mask[0], mask[1, 0] = 0, 0
    variables = draw_parameters(model, (dense, embeddings, mask, *rest), noise=0.1)

    def logits(variables, embeddings):
        return model.apply(variables, dense, embeddings, mask, *rest, train=True).logits

    other = np.where(mask[:, :, None] == 1, embeddings, 1e3).astype(np.float32)
    np.testing.assert_array_equal(logits(variables, embeddings), logits(variables, other))
    assert np.abs(logits(variables, embeddings) - logits(variables, 2 * embeddings)).max() > 1e-4
    weights, vectors = jax.jit(jax.grad(lambda v, e: (logits(v, e) ** 2).sum(), (0, 1)))(variables, embeddings)
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0 or path[-1].key in silent or path[-2].key in silent, path
    assert np.all(np.asarray(vectors)[mask == 0] == 0)
    assert np.all(np.abs(np.asarray(vectors)[mask == 1]).sum(-1) > 0)


def assert_dropout_acts_in_training_only(build, options, place, shape):
    """Serving is blind to the rate; training is a function of the key."""
    model, plain = build({**options, place: 0.5}, shape), build(options, shape)
    inputs = make_inputs(shape)
    variables = draw_parameters(model, inputs)

    def train(seed):
        return model.apply(variables, *inputs, train=True, rngs={"dropout": jax.random.key(seed)}).logits

    served = [m.apply(variables, *inputs, train=False).logits for m in (model, plain)]
    np.testing.assert_array_equal(*served)
    np.testing.assert_array_equal(train(0), train(0))
    assert np.abs(train(0) - train(1)).max() > 1e-4


def assert_bfloat16_stays_near_float32(build, options, shape, most=0.03):
    """8 bits of mantissa, 2**-9 a rounding, a dozen roundings on the way; above 0: it did round."""
    shapes = [dataclasses.replace(shape, compute_dtype=name) for name in ("float32", "bfloat16")]
    inputs = make_inputs(shape, rows=64)
    exact, rounded = (build(options, shape) for shape in shapes)
    variables = draw_parameters(exact, inputs)
    first, second = (model.apply(variables, *inputs, train=False).logits for model in (exact, rounded))
    assert second.dtype == jnp.float32
    assert 1e-5 < np.sqrt(np.mean((first - second) ** 2)) / np.std(first) < most
    gradient = jax.eval_shape(jax.grad(lambda v: rounded.apply(v, *inputs, train=True).logits.sum()), variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))


def assert_no_model_option_is_idle(build, kind, small, variants, changes, shape, extras=None):
    """No option is accepted and ignored, whichever variant it is added to; see `assert_no_option_is_idle`.

    Args:
      build: the model's factory.
      kind: dataclass of its options.
      small: options of all variants.
      variants: further options, one mapping a variant.
      changes: name to another value, or to a mapping of options where one needs others; every field of `kind`.
      shape: with dense columns and embeddings.
      extras: of the model's call.
    """
    bases = [{**small, **variant} for variant in variants]
    pairs = [(name, change if is_mapping_of(name, change) else {name: change}) for name, change in changes.items()]
    assert_no_option_is_idle(trace_model(build, shape, extras), kind, bases, pairs)


def is_mapping_of(name, change):
    return isinstance(change, dict) and name in change


def trace_model(build, shape, extras=None):
    """Options to the traced start and training pass, as text."""
    dense, embeddings, mask, domain, _ = make_inputs(shape)
    key = jax.random.key(0)

    def run(model, key, *arrays):
        variables = model.init(key, *arrays, train=False)
        return variables, model.apply(variables, *arrays, train=True, rngs={"dropout": key}, mutable=True)

    def fingerprint(options):
        model = build(options, shape)
        return str(
            jax.make_jaxpr(lambda key, *a: run(model, key, *a))(key, dense, embeddings, mask, domain, extras or {})
        )

    return fingerprint


def assert_refused_by_name(build, options, word, shape):
    """The factory refuses the options in one line, with the key's whole name and the given words."""
    with pytest.raises(UserError, match=word) as caught:
        build(options, shape)
    assert str(caught.value).startswith("config.model.options.")
    assert "\n" not in str(caught.value)


def assert_cost_agrees_with_xla(model, shape, least=0.98, most=1.05):
    """XLA also counts biases, activations and norms, a few per value against hundreds of products that made it."""
    inputs = make_inputs(shape, rows=256)
    cost = count_cost(model, shape)
    variables = jax.eval_shape(lambda key: model.init(key, *inputs, train=False), jax.random.key(0))

    def logits(variables, embeddings):
        return model.apply(variables, inputs[0], embeddings, *inputs[2:], train=False).logits

    counted = jax.jit(logits).lower(variables, inputs[1]).compile().cost_analysis()["flops"] / 256
    assert least < counted / cost.forward_flops_per_example < most
