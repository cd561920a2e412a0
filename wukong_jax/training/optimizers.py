"""Builds optimizers of dense weights, and the learning-rate schedule shared by dense weights and tables.

`config.optimizer.factory` is the short name of one of the four optimizers here, any Optax function ("optax:lion"), or a
factory of another package, called as build(options, learning_rate).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from wukong_jax.config import OPTIMIZERS, OptimizerConfig
from wukong_jax.errors import UserError
from wukong_jax.factories import load_factory
from wukong_jax.ranges import Above, AtLeast, Fraction
from wukong_jax.strict_mapping import build_dataclass

Schedule = Callable[[jax.Array], jax.Array]
Options = Mapping[str, Any]
OPTIONS = "config.optimizer.options"


@dataclasses.dataclass(frozen=True)
class AdamOptions:
    """`config.optimizer.options` of "adam"."""

    beta1: Annotated[float, Fraction()] = 0.9  # decay of the first moment
    beta2: Annotated[float, Fraction()] = 0.999  # decay of the second moment
    epsilon: Annotated[float, Above(0)] = 1e-8  # added to the root of the second moment


@dataclasses.dataclass(frozen=True)
class AdamWOptions(AdamOptions):
    """`config.optimizer.options` of "adamw"."""

    weight_decay: Annotated[float, AtLeast(0)] = 0.0  # decoupled; on matrices, not on biases or norm scales


@dataclasses.dataclass(frozen=True)
class AdagradOptions:
    """`config.optimizer.options` of "adagrad"."""

    epsilon: Annotated[float, Above(0)] = 1e-8  # added under the root of the sum of squares


@dataclasses.dataclass(frozen=True)
class SgdOptions:
    """`config.optimizer.options` of "sgd": none."""


def build_adam(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """Builds Adam."""
    built = build_dataclass(AdamOptions, options, OPTIONS)
    return optax.adam(learning_rate, built.beta1, built.beta2, built.epsilon)


def build_adamw(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """Builds AdamW, Adam with decoupled weight decay, here on matrices only."""
    built = build_dataclass(AdamWOptions, options, OPTIONS)
    moments = (built.beta1, built.beta2, built.epsilon)
    return optax.adamw(learning_rate, *moments, weight_decay=built.weight_decay, mask=_matrices)


def build_adagrad(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """Builds AdaGrad with sums of squares initialized to 0."""
    built = build_dataclass(AdagradOptions, options, OPTIONS)
    return optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=built.epsilon)


def build_sgd(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """Builds plain gradient descent."""
    build_dataclass(SgdOptions, options, OPTIONS)
    return optax.sgd(learning_rate)


def build_dense_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds the Optax optimizer of dense weights, with the base learning rate.

    The train step multiplies its updates by the schedule's factor, so that the same factor scales dense weights and
    tables. This equals a scheduled learning rate if updates are linear in the learning rate (including decoupled weight
    decay), as they are for the four optimizers here and most of Optax. It differs for transformations that average
    updates already scaled by the rate ("optax:lars") or estimate a rate themselves ("optax.contrib:prodigy"): there the
    factor scales their final updates.

    Raises:
      UserError: the factory cannot be imported, or rejects an option.
    """
    if config.factory.partition(":")[0].partition(".")[0] == "optax":
        optimizer = _build_from_optax(config)
    else:
        optimizer = config.build("config.optimizer", config.learning_rate, short_names=OPTIMIZERS)
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def build_schedule(config: OptimizerConfig) -> Schedule:
    """Builds the schedule that scales every learning rate: warm-up, hold, then linear or cosine decay.

    Returns:
      Function from the step [] int32 to a factor [] float32 in [0, 1]. Step 0 of a warm-up over w steps has factor
      1/w, not 0, so that no step is wasted.
    """

    def schedule(step: jax.Array) -> jax.Array:
        after = jnp.asarray(step, jnp.float32) + 1.0
        warm = jnp.minimum(after / config.warmup_steps, 1.0) if config.warmup_steps else jnp.float32(1.0)
        if config.schedule == "constant":
            return warm
        decaying = after - config.warmup_steps - config.hold_steps
        progress = jnp.clip(decaying / config.decay_steps, 0.0, 1.0)
        fall = 0.5 * (1.0 - jnp.cos(jnp.pi * progress)) if config.schedule == "cosine" else progress
        return warm * (1.0 - (1.0 - config.final_fraction) * fall)

    return schedule


def _build_from_optax(config: OptimizerConfig) -> optax.GradientTransformation:
    """Calls an Optax function with the learning rate and the options, and tests the result on a small weight."""
    function = load_factory("config.optimizer.factory", config.factory)
    call = f"config.optimizer: {config.factory}(learning_rate={config.learning_rate:g}, **{dict(config.options)!r})"
    weight = jax.ShapeDtypeStruct((2, 2), jnp.float32)
    try:
        optimizer = function(learning_rate=config.learning_rate, **config.options)
        jax.eval_shape(lambda w: optimizer.update(w, optimizer.init(w), w), weight)
    except Exception as error:
        raise UserError(f"{call}: {' '.join(str(error).split())}; see the function's documentation") from error
    return optimizer


def _matrices(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)
