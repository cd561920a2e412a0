"""Counts the parameters and training FLOPs of any model from its traced forward pass.

It follows the paper's convention (recovered from its DLRM on Criteo 1 TB: 680,321 dense parameters and 4.617 MFLOP,
printed as 4.62): only matrix products count, with 2 FLOPs per multiply-accumulate (MAC), once for the forward pass and
once for the gradient of each operand that needs one. A product of weights and activations therefore costs 6 FLOPs per
MAC, and the first layer over the dense columns 4, because raw numbers need no gradient. Embedding look-ups,
activations, norms and optimizers are not counted. Products are counted as computed: if Wukong adds two kernels and
multiplies once, that is one product.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

from wukong_jax.layers.batch_norm import STATISTICS
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.shape import ModelShape


@dataclasses.dataclass(frozen=True)
class Cost:
    """Costs of a model, without its embedding tables."""

    dense_parameters: int
    forward_macs_per_example: float  # multiply-accumulates of a forward pass
    train_flops_per_example: float  # FLOPs of forward and backward pass, by the paper's convention
    serve_flops_per_example: float  # FLOPs of the products that the logits depend on, without training-only heads

    @property
    def forward_flops_per_example(self) -> float:
        """FLOPs of a forward pass: 2 per multiply-accumulate."""
        return 2 * self.forward_macs_per_example


class _Macs(NamedTuple):
    forward: int
    backward: int

    def __add__(self, other: "_Macs") -> "_Macs":  # type: ignore[override]
        return _Macs(self.forward + other.forward, self.backward + other.backward)

    def times(self, count: int) -> "_Macs":
        return _Macs(self.forward * count, self.backward * count)


_NONE = _Macs(0, 0)
# Primitives that run one inner jaxpr on their operands, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


def count_cost(module: nn.Module, shape: ModelShape, *, batch: int = 4096) -> Cost:
    """Counts a model's parameters and products without computing or allocating anything.

    Args:
      module: any model, called with `ModelInputs` and `train`.
      shape: sizes of the model's inputs and outputs.
      batch: rows of the traced batch; the costs of products that do not depend on the rows are divided among them.

    Returns:
      The cost per example.

    Raises:
      ValueError: a product is in a loop whose length is unknown before it runs.
    """
    inputs = _abstract_inputs(shape, batch)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def initialise(key: jax.Array, inputs: ModelInputs) -> Any:
        return module.init({"params": key, "dropout": key}, inputs, train=False)

    def forward(params: Any, embeddings: jax.Array, rest: ModelInputs, statistics: Any, key: jax.Array) -> Any:
        inputs, rngs = rest._replace(embeddings=embeddings), {"dropout": key}
        variables = {"params": params, STATISTICS: statistics}
        outputs, updated = module.apply(variables, inputs, train=True, rngs=rngs, mutable=[STATISTICS])
        return getattr(outputs, "logits", outputs), outputs, updated

    variables = jax.eval_shape(initialise, key, inputs)
    params, rest = variables.get("params", {}), inputs._replace(embeddings=None)  # type: ignore[arg-type]
    traced = jax.make_jaxpr(forward)(params, inputs.embeddings, rest, variables.get(STATISTICS, {}), key)
    trained = len(jax.tree.leaves(params)) + 1
    needs = [index < trained for index in range(len(traced.jaxpr.invars))]
    macs, _ = _count_jaxpr(traced.jaxpr, needs)
    return Cost(
        dense_parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)),
        forward_macs_per_example=macs.forward / batch,
        train_flops_per_example=2 * (macs.forward + macs.backward) / batch,
        serve_flops_per_example=2 * _count_needed(traced.jaxpr, traced.jaxpr.outvars[0]) / batch,
    )


def _abstract_inputs(shape: ModelShape, batch: int) -> ModelInputs:
    def floats(*axes: int) -> Any:
        return jax.ShapeDtypeStruct((batch, *axes), jnp.float32)

    domain: Any = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return ModelInputs(
        floats(shape.dense_features),
        floats(shape.tokens, shape.width),
        floats(shape.tokens),
        domain,
        {name: floats(width) for name, width in shape.extras},
    )


def _count_jaxpr(jaxpr: Any, needs: Sequence[bool]) -> tuple[_Macs, list[bool]]:
    """Counts the products of a jaxpr.

    Args:
      jaxpr: an open jaxpr.
      needs: for each input of the jaxpr, whether its gradient is needed.

    Returns:
      The products, and whether each output needs a gradient.
    """
    differentiated = {var for var, need in zip(jaxpr.invars, needs, strict=True) if need}

    def need(atom: Any) -> bool:
        return not isinstance(atom, jex_core.Literal) and atom in differentiated

    total = _NONE
    for equation in jaxpr.eqns:
        macs, made = _count_equation(equation, [need(atom) for atom in equation.invars])
        total += macs
        for var, flag in zip(equation.outvars, made, strict=True):
            if flag and jnp.issubdtype(var.aval.dtype, jnp.inexact):
                differentiated.add(var)
    return total, [need(atom) for atom in jaxpr.outvars]


def _count_needed(jaxpr: Any, output: Any) -> int:
    """Counts the multiply-accumulates of the equations that an output depends on."""
    needed, total = {output}, 0
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed |= {atom for atom in equation.invars if not isinstance(atom, jex_core.Literal)}
            total += _count_equation(equation, [False] * len(equation.invars))[0].forward
    return total


def _count_equation(equation: Any, needs: list[bool]) -> tuple[_Macs, list[bool]]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _count_jaxpr(_open(params[_CALLS[name]]), needs)
    if name == "scan":
        return _count_scan(params, needs)
    if name == "cond":
        return _count_branches(params["branches"], needs[1:])
    everything = [any(needs) and name != "stop_gradient"] * len(equation.outvars)
    if name in ("dot_general", "conv_general_dilated"):
        count = _count_products(equation)
        return _Macs(count, count * sum(needs[:2])), everything
    for inner in _inner_jaxprs(params):
        if _count_jaxpr(inner, [False] * len(inner.invars))[0].forward:
            raise ValueError(f"cannot count the products inside {name!r}: how often they run is not known")
    return _NONE, everything


def _count_products(equation: Any) -> int:
    """Counts the multiply-accumulates of one matrix product or convolution."""
    left, right = (atom.aval.shape for atom in equation.invars[:2])
    made = equation.outvars[0].aval.shape
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(made) * math.prod(left[axis] for axis in contracted)
    out_features = equation.params["dimension_numbers"].rhs_spec[0]
    return math.prod(made) * math.prod(right) // right[out_features]


def _count_scan(params: Mapping[str, Any], needs: list[bool]) -> tuple[_Macs, list[bool]]:
    """Counts a scan's body once per step; a carry needs a gradient if it needs one in any step."""
    consts, carries = _scan_sizes(params)
    while True:
        macs, made = _count_jaxpr(_open(params["jaxpr"]), needs)
        carried = [before or after for before, after in zip(needs[consts:], made[:carries], strict=False)]
        grown = [*needs[:consts], *carried, *needs[consts + carries :]]
        if grown == needs:
            return macs.times(params["length"]), made
        needs = grown


def _scan_sizes(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the numbers of constants and carries; JAX 0.12 stores them as a tree of (constants, carries, inputs)."""
    if "num_carry" in params:
        return params["num_consts"], params["num_carry"]
    consts, carries, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carries))


def _count_branches(branches: Iterable[Any], needs: list[bool]) -> tuple[_Macs, list[bool]]:
    """Counts the most expensive branch."""
    counted = [_count_jaxpr(_open(branch), needs) for branch in branches]
    made = [any(flags) for flags in zip(*(flags for _, flags in counted), strict=True)]
    return max((macs for macs, _ in counted), key=sum), made


def _inner_jaxprs(params: Mapping[str, Any]) -> list[Any]:
    leaves = jax.tree.leaves(
        list(params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
    )
    return [_open(leaf) for leaf in leaves if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")]


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
