"""Row optimizers: what one touched row becomes, given its merged gradient.

Every function here sees each distinct row once. `M` is the number of slots of a batch in one
stack (`B * S_stack`); positions that stand for no row carry values that nobody writes back.

L2 is *lazy*: a row is only ever changed in a step that touches it. In that step
  1. the skipped steps since its last touch are made up for: the row decays by
     `exp(-scale * l2 * skipped)`, where `scale` is the optimizer's own step size for that number
     (the learning rate for SGD, the rate over the root of the second moment for the others).
     The factor lies in [0, 1], so however long the absence, a row never flips its sign;
  2. the step itself is coupled as in whole-table L2: gradient += `l2 * row`, seen by the moments.
It differs from whole-table L2 (`loss += l2 / 2 * sum(table ** 2)`, the convention of FuxiCTR and of
Frappe's published numbers) in three ways: the forward pass reads rows whose decay is still owed; rows
never touched again keep their last value; and the skipped steps leave the moments alone, where a dense
optimizer would feed them `l2 * row` each step (a dense Adam moves an absent row by about the learning
rate a step for that alone, whatever the size of `l2`). For rows touched in every step the two are equal.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import Above, AtLeast, Fraction

OptimizerArrays = Mapping[str, jax.Array]
RowMean = Callable[[jax.Array], jax.Array]  # [M, w] to [M]: the mean over a row's numbers


def mean_over_row(values: jax.Array) -> jax.Array:
    """The mean over a row's numbers where they all are here: [M, w] to [M]."""
    return jnp.mean(values, axis=1)


@dataclasses.dataclass(frozen=True)
class RowOptimizer:
    """How the rows of a table learn.

    sgd: `row -= rate * g`.
    adagrad: `a += g ** 2; row -= rate * g / (sqrt(a) + epsilon)`, one `a` a number.
    rowwise_adagrad: `a += mean(g ** 2)` first, over the row's numbers, then the same step: one `a` a row
      (the paper's optimizer for tables; a row that holds several embeddings is one row).
    lazy_adam: moments of touched rows only. Bias is corrected by the row's own count of touches, because its
      moments have seen that many gradients: a row first seen late in a run moves by `rate`, where a correction
      by the global step would move it by `(1 - beta1) / sqrt(1 - beta2)` times that (3.2 times by default).
    """

    kind: Literal["sgd", "adagrad", "rowwise_adagrad", "lazy_adam"]
    learning_rate: Annotated[float, AtLeast(0)]  # step size; the trainer's schedule multiplies it
    l2: Annotated[float, AtLeast(0)] = 0.0  # coefficient of l2 / 2 * sum(row ** 2), applied on touch
    epsilon: Annotated[float, Above(0)] = 1e-8  # added to the root of the second moment; 0 divides 0 by 0
    initial_accumulator: Annotated[float, AtLeast(0)] = 0.0  # adagrad, rowwise_adagrad: starting value of `a`
    beta1: Annotated[float, Fraction()] = 0.9  # lazy_adam: decay of the first moment
    beta2: Annotated[float, Fraction()] = 0.999  # lazy_adam: decay of the second moment

    def __post_init__(self) -> None:
        """Refuses settings that the chosen kind would ignore."""
        has_accumulator = self.kind in ("adagrad", "rowwise_adagrad")
        for name, read in (
            ("epsilon", self.kind != "sgd"),
            ("initial_accumulator", has_accumulator),
            ("beta1", self.kind == "lazy_adam"),
            ("beta2", self.kind == "lazy_adam"),
        ):
            refuse_idle(self, name, not read, f"with kind {self.kind!r}")


@dataclasses.dataclass(frozen=True)
class ArrayDeclaration:
    """One optimizer array of a table: its trailing shape, dtype and starting value."""

    trailing_shape: tuple[int, ...]
    dtype: str
    initial_value: float


def declare_optimizer_arrays(optimizer: RowOptimizer, width: int) -> dict[str, ArrayDeclaration]:
    """The arrays that an optimizer keeps beside the rows.

    Args:
      optimizer: the row optimizer.
      width: numbers in a row.

    Returns:
      Array name to its declaration; the leading axis is always `V`.
    """
    if optimizer.kind == "adagrad":
        return {"accumulator": ArrayDeclaration((width,), "float32", optimizer.initial_accumulator)}
    if optimizer.kind == "rowwise_adagrad":
        return {"accumulator": ArrayDeclaration((), "float32", optimizer.initial_accumulator)}
    if optimizer.kind == "lazy_adam":
        return {
            "first_moment": ArrayDeclaration((width,), "float32", 0.0),
            "second_moment": ArrayDeclaration((width,), "float32", 0.0),
            "touch_count": ArrayDeclaration((), "int32", 0),
        }
    return {}


def compute_updated_rows(
    optimizer: RowOptimizer,
    rows: jax.Array,
    gradients: jax.Array,
    arrays: OptimizerArrays,
    skipped_steps: jax.Array | None,
    learning_rate_scale: jax.Array,
    row_mean: RowMean = mean_over_row,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Applies one step of a row optimizer to touched rows.

    Args:
      optimizer: the row optimizer.
      rows: [M, w] float32, the rows before the step.
      gradients: [M, w] float32, each row's merged gradient.
      arrays: the optimizer's arrays of those rows, [M, ...].
      skipped_steps: [M] int32, steps since the last touch that did not touch the row; None without L2.
      learning_rate_scale: float32 scalar, multiplies the learning rate.
      row_mean: the mean over a whole row, of which `w` may be a part (row-wise AdaGrad).

    Returns:
      The rows after the step, [M, w] float32, and their optimizer arrays.
    """
    if optimizer.l2 > 0:
        gradients = gradients + optimizer.l2 * rows
    scale, direction, arrays = _compute_step(optimizer, gradients, arrays, row_mean)
    rate = optimizer.learning_rate * learning_rate_scale
    if optimizer.l2 > 0:
        assert skipped_steps is not None
        owed = skipped_steps.astype(jnp.float32)[:, None]
        rows = rows * jnp.exp(-rate * optimizer.l2 * owed * scale)
    return rows - rate * scale * direction, dict(arrays)


def _compute_step(
    optimizer: RowOptimizer, gradients: jax.Array, arrays: OptimizerArrays, row_mean: RowMean
) -> tuple[jax.Array, jax.Array, OptimizerArrays]:
    """The step is `rate * scale * direction`; scale is [M, w] or broadcasts to it."""
    if optimizer.kind == "sgd":
        return jnp.ones((1, 1), jnp.float32), gradients, arrays
    if optimizer.kind == "lazy_adam":
        return _compute_adam_step(optimizer, gradients, arrays)
    squares = jnp.square(gradients)
    if optimizer.kind == "rowwise_adagrad":
        accumulator = arrays["accumulator"] + row_mean(squares)
        root = jnp.sqrt(accumulator)[:, None]
    else:
        accumulator = arrays["accumulator"] + squares
        root = jnp.sqrt(accumulator)
    return 1 / (root + optimizer.epsilon), gradients, {"accumulator": accumulator}


def _compute_adam_step(
    optimizer: RowOptimizer, gradients: jax.Array, arrays: OptimizerArrays
) -> tuple[jax.Array, jax.Array, OptimizerArrays]:
    count = arrays["touch_count"] + 1
    first = optimizer.beta1 * arrays["first_moment"] + (1 - optimizer.beta1) * gradients
    second = optimizer.beta2 * arrays["second_moment"] + (1 - optimizer.beta2) * jnp.square(gradients)
    touches = count.astype(jnp.float32)[:, None]
    unbiased_first = first / _one_minus_power(optimizer.beta1, touches)
    unbiased_second = second / _one_minus_power(optimizer.beta2, touches)
    scale = 1 / (jnp.sqrt(unbiased_second) + optimizer.epsilon)
    return scale, unbiased_first, {"first_moment": first, "second_moment": second, "touch_count": count}


def _one_minus_power(base: float, exponents: jax.Array) -> jax.Array:
    """`1 - base ** exponents`, to full precision for a base near 1 too."""
    return -jnp.expm1(exponents * (math.log(base) if base else -math.inf))
