import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wukong_jax.models import logistic_regression, wukong
from wukong_jax.models.cost import count_cost
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.models.shape import ModelShape

N, D, K, NF, NL, H, DENSE = 26, 16, 8, 6, 10, 32, 13


class PairwiseDots(nn.Module):
    """The parts of DLRM: bottom MLP to one token, dot products of all pairs, top MLP on those above the diagonal."""

    bottom: tuple[int, ...]
    top: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs, *, train):
        dense = inputs.dense
        for width in self.bottom:
            dense = nn.relu(nn.Dense(width)(dense))
        tokens = jnp.concatenate([inputs.present_embeddings, dense[:, None]], axis=1)
        dots = jnp.einsum("bnd,bmd->bnm", tokens, tokens)
        rows, columns = np.triu_indices(tokens.shape[1], 1)
        values = jnp.concatenate([dots[:, rows, columns], dense], axis=1)
        for width in self.top[:-1]:
            values = nn.relu(nn.Dense(width)(values))
        return Outputs(nn.Dense(self.top[-1])(values), {})


class ScannedProduct(nn.Module):
    """Applies one square kernel several times, with and without gradients."""

    steps: int

    @nn.compact
    def __call__(self, inputs, *, train):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (DENSE, DENSE))

        def step(carry, shift):
            values, count = carry
            return (jnp.tanh(values @ kernel + shift), count + 1), None

        (values, _), _ = jax.lax.scan(step, (inputs.dense, 0), jnp.ones((self.steps, DENSE)))
        frozen = jax.lax.stop_gradient(values) @ jax.lax.stop_gradient(kernel)
        return Outputs(values + frozen, {})


class UnboundedLoop(nn.Module):
    @nn.compact
    def __call__(self, inputs, *, train):
        square = inputs.dense.T @ inputs.dense
        return Outputs(jax.lax.while_loop(lambda m: m.sum() < 1e9, lambda m: m @ m, square), {})


def test_convention_gives_the_papers_dlrm_on_criteo():
    """680,321 parameters and 4.62 MFLOP are printed in the paper's table 3 (27 vectors, all 27 x 27 dots)."""
    cost = count_cost(PairwiseDots((512, 256, 128), (512, 512, 1)), ModelShape(13, 26, 128, 1))
    assert cost.dense_parameters == 680_321
    assert cost.train_flops_per_example == 4_616_960


def wukong_closed_form(fm, layers, norm_parameters):
    """Computes parameters and MACs of a Wukong with SIZES; the first dense layer's MACs separately."""
    first_dense = DENSE * H
    parameters = first_dense + H + H * D + D
    macs = first_dense + H * D
    for layer in range(layers):
        count = N + 1 if layer == 0 else NF + NL
        interactions = count * (count if fm == "full" else K)
        if fm != "full":
            macs += count * D * K  # X^T Y
        if fm == "static":
            parameters += count * K
        if fm == "attentive":
            tokens, hidden = 4, 5
            parameters += count * tokens + 2 * tokens * D + (tokens * D + 1) * hidden + (hidden + 1) * count * K
            macs += count * tokens * D + tokens * D * hidden + hidden * count * K
        macs += interactions * D  # X times the above, or X X^T
        parameters += 2 * interactions  # the FM's norm
        parameters += (interactions + 1) * H + (H + 1) * NF * D
        macs += interactions * H + H * NF * D
        parameters += count * NL + norm_parameters
        if layer == 0:
            parameters += count * (NF + NL)
            macs += count * (NF + NL) * D  # LCB and residual in one product
        else:
            macs += count * NL * D
    parameters += ((NF + NL) * D + 1) * H + (H + 1) * 2
    return parameters, macs + (NF + NL) * D * H + H * 2, first_dense


@pytest.mark.parametrize("fm", ["static", "full", "attentive"])
@pytest.mark.parametrize(("norm", "norm_parameters"), [("token", 2 * D), ("flat", 2 * D * (NF + NL)), ("none", 0)])
@pytest.mark.parametrize("layers", [1, 3])
def test_wukong_equals_its_closed_form(fm, norm, norm_parameters, layers):
    model, shape = build_wukong(fm, norm=norm, layers=layers)
    cost = count_cost(model, shape)
    parameters, macs, first_dense = wukong_closed_form(fm, layers, norm_parameters)
    assert cost.dense_parameters == parameters
    # batch-free work (adding the LCB's and the residual's kernels) has no products, so the count is exact
    assert cost.forward_macs_per_example == macs
    assert cost.forward_flops_per_example == 2 * macs
    assert cost.train_flops_per_example == 6 * macs - 2 * first_dense


def build_wukong(fm, **options):
    sizes = {"fmb_tokens": NF, "lcb_tokens": NL, "fmb_hidden": [H], "head_hidden": [H], "bottom_hidden": [H], "fm": fm}
    if fm != "full":
        sizes["rank"] = K
    if fm == "attentive":
        sizes["attention"] = {"tokens": 4, "hidden": [5]}
    shape = ModelShape(DENSE, N, D, 2)
    return wukong.build({**sizes, **options}, shape), shape


@pytest.mark.parametrize("fm", ["static", "full", "attentive"])
def test_count_agrees_with_xla(fm):
    """XLA also counts biases, activations, norms and casts: a few per value, against hundreds of MACs that made it.

    It fuses and simplifies, so the surplus is bounded, not known: at most 10 % at these small widths (1 to 2 % at
    the default ones), and never a deficit beyond 1 %, as the first dense layer's input gradient is never computed.
    """
    model, shape = build_wukong(fm, layers=1)
    cost = count_cost(model, shape)
    rows = 256
    arrays = jnp.ones((rows, DENSE)), jnp.ones((rows, N, D)), jnp.ones((rows, N)), jnp.zeros(rows, jnp.int32)
    inputs = ModelInputs(*arrays, {})
    variables = jax.eval_shape(lambda key: model.init(key, inputs, train=False), jax.random.key(0))

    def forward(variables, embeddings):
        return model.apply(variables, inputs._replace(embeddings=embeddings), train=True).logits

    def loss(variables, embeddings):
        return forward(variables, embeddings).sum()

    for function, counted in (
        (forward, cost.forward_flops_per_example),
        (jax.value_and_grad(loss, (0, 1)), cost.train_flops_per_example),
    ):
        analysis = jax.jit(function).lower(variables, inputs.embeddings).compile().cost_analysis()
        assert 0.99 < analysis["flops"] / rows / counted < 1.10
    assert cost.dense_parameters == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_scans_count_each_step_and_stopped_gradients_none():
    cost = count_cost(ScannedProduct(4), ModelShape(DENSE, 0, 1, DENSE))
    square = DENSE * DENSE
    assert cost.forward_macs_per_example == 5 * square
    # each scanned step: forward, kernel and carry (one body serves all steps, the first included); frozen: forward
    assert cost.train_flops_per_example == 2 * (4 * 3 + 1) * square


def test_loops_of_unknown_length_are_refused():
    with pytest.raises(ValueError, match="'while'"):
        count_cost(UnboundedLoop(), ModelShape(DENSE, 0, 1, 1))


def test_logistic_regression_costs_its_dense_weights():
    shape = ModelShape(DENSE, 26, 2, 2)
    cost = count_cost(logistic_regression.build({}, shape), shape)
    assert cost.dense_parameters == 2 * DENSE + 2
    assert cost.train_flops_per_example == 4 * 2 * DENSE  # no input gradient
