"""Provides row optimizers, which update the touched rows of a table by their merged gradients.

Functions in this module see each distinct row once. `M` is the number of slots of a batch in one stack
(`B * S_stack`); values at positions without a row are never written back.

L2 is *lazy*: a row changes only in steps that touch it. In such a step,
  1. the row first decays for the steps skipped since its last touch, by `exp(-scale * l2 * skipped)`, where `scale` is
     the optimizer's step size for that number (the learning rate for SGD, the rate divided by the root of the second
     moment for the others). The factor is in [0, 1], so a row never changes sign after a long absence;
  2. the step itself is coupled as in whole-table L2: `l2 * row` is added to the gradient, and so to the moments.
It differs from whole-table L2 (`loss += l2 / 2 * sum(table ** 2)`, the convention of FuxiCTR and of Frappe's published
numbers) in three ways: the forward pass reads rows before their pending decay; rows never touched again keep their last
value; and skipped steps do not change the moments. A dense optimizer would add `l2 * row` to them in each step; for
this alone, dense Adam moves an absent row by about the learning rate per step, regardless of `l2`. For rows touched in
every step, both are equal.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import Above, AtLeast, Fraction

OptimizerArrays = Mapping[str, jax.Array]
RowMean = Callable[[jax.Array], jax.Array]  # from [M, w] to the mean of each row [M]


def mean_over_row(values: jax.Array) -> jax.Array:
    """Computes the mean of each row, [M, w] to [M], if this device holds whole rows."""
    return jnp.mean(values, axis=1)


@dataclasses.dataclass(frozen=True)
class RowOptimizer:
    """Settings of the optimizer of a table's rows.

    sgd: `row -= rate * g`.
    adagrad: `a += g ** 2; row -= rate * g / (sqrt(a) + epsilon)`, with one `a` per number.
    rowwise_adagrad: `a += mean(g ** 2)` over the numbers of a row, then the same step, with one `a` per row (the
      paper's optimizer for tables; a row that holds several embeddings is one row).
    lazy_adam: Adam that updates the moments of touched rows only. Bias is corrected by the row's number of touches,
      because its moments have seen that many gradients: a row first seen late in a run moves by `rate`, whereas a
      correction by the global step would move it by `(1 - beta1) / sqrt(1 - beta2)` times that (3.2 times by default).
    """

    kind: Literal["sgd", "adagrad", "rowwise_adagrad", "lazy_adam"]
    learning_rate: Annotated[float, AtLeast(0)]  # step size; the trainer's schedule multiplies it
    l2: Annotated[float, AtLeast(0)] = 0.0  # coefficient of l2 / 2 * sum(row ** 2), applied on touch
    epsilon: Annotated[float, Above(0)] = 1e-8  # added to the root of the second moment
    initial_accumulator: Annotated[float, AtLeast(0)] = 0.0  # adagrad, rowwise_adagrad: initial value of `a`
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
    """Trailing shape, dtype and initial value of one optimizer array of a table."""

    trailing_shape: tuple[int, ...]
    dtype: str
    initial_value: float


def declare_optimizer_arrays(optimizer: RowOptimizer, width: int) -> dict[str, ArrayDeclaration]:
    """Declares the arrays that an optimizer stores for the rows.

    Args:
      optimizer: the row optimizer.
      width: number of columns of a row.

    Returns:
      Declarations by array name; the leading axis is always `V`.
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


class RowChange(NamedTuple):
    """One step of touched rows: `row = decay * row - step`."""

    decay: jax.Array | None  # [M, w] or [M, 1] float32, for steps that did not touch the row; None without L2
    step: jax.Array  # [M, w] float32

    def apply(self, rows: jax.Array) -> jax.Array:
        """Returns the rows after the step, [M, w] float32."""
        return (rows if self.decay is None else rows * self.decay) - self.step


def compute_row_change(
    optimizer: RowOptimizer,
    rows: jax.Array | None,
    gradients: jax.Array,
    arrays: OptimizerArrays,
    skipped_steps: jax.Array | None,
    learning_rate_scale: jax.Array,
    row_mean: RowMean = mean_over_row,
) -> tuple[RowChange, dict[str, jax.Array]]:
    """Computes one step of a row optimizer for touched rows.

    Args:
      optimizer: the row optimizer.
      rows: [M, w] float32 rows before the step; None without L2, where the step does not depend on them.
      gradients: [M, w] float32 merged gradients of the rows.
      arrays: optimizer arrays of these rows, [M, ...] each.
      skipped_steps: [M] int32, steps since the last touch that did not touch the row; None without L2.
      learning_rate_scale: float32 scalar that multiplies the learning rate.
      row_mean: mean over a whole row, if `w` columns are only a part of it (row-wise AdaGrad).

    Returns:
      The change of the rows, and their optimizer arrays after the step.
    """
    decay = None
    if optimizer.l2 > 0:
        assert rows is not None
        gradients = gradients + optimizer.l2 * rows
    scale, direction, arrays = _compute_step(optimizer, gradients, arrays, row_mean)
    rate = optimizer.learning_rate * learning_rate_scale
    if optimizer.l2 > 0:
        assert skipped_steps is not None
        owed = skipped_steps.astype(jnp.float32)[:, None]
        decay = jnp.exp(-rate * optimizer.l2 * owed * scale)
    return RowChange(decay, rate * scale * direction), dict(arrays)


def _compute_step(
    optimizer: RowOptimizer, gradients: jax.Array, arrays: OptimizerArrays, row_mean: RowMean
) -> tuple[jax.Array, jax.Array, OptimizerArrays]:
    """Returns (scale, direction, arrays) of the step `rate * scale * direction`; scale broadcasts to [M, w]."""
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
    """Computes `1 - base ** exponents` with full precision, also for a base near 1."""
    return -jnp.expm1(exponents * (math.log(base) if base else -math.inf))
