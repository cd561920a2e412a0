"""Dense optimizers, and the learning-rate schedule that dense weights and tables share.

`config.optimizer.factory` names one of the four here by its short name, any function of optax ("optax:lion"), or a
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

    weight_decay: Annotated[float, AtLeast(0)] = 0.0  # decoupled, on matrices and not on biases or norm scales


@dataclasses.dataclass(frozen=True)
class AdagradOptions:
    """`config.optimizer.options` of "adagrad"."""

    epsilon: Annotated[float, Above(0)] = 1e-8  # added under the root of the sum of squares


@dataclasses.dataclass(frozen=True)
class SgdOptions:
    """`config.optimizer.options` of "sgd", which has none."""


def build_adam(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """Adam."""
    built = build_dataclass(AdamOptions, options, OPTIONS)
    return optax.adam(learning_rate, built.beta1, built.beta2, built.epsilon)


def build_adamw(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on matrices."""
    built = build_dataclass(AdamWOptions, options, OPTIONS)
    moments = (built.beta1, built.beta2, built.epsilon)
    return optax.adamw(learning_rate, *moments, weight_decay=built.weight_decay, mask=_matrices)


def build_adagrad(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """AdaGrad, its sums of squares starting at 0."""
    built = build_dataclass(AdagradOptions, options, OPTIONS)
    return optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=built.epsilon)


def build_sgd(options: Options, learning_rate: float) -> optax.GradientTransformation:
    """Plain gradient descent."""
    build_dataclass(SgdOptions, options, OPTIONS)
    return optax.sgd(learning_rate)


def build_dense_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optax chain for dense weights, at the base learning rate.

    The train step multiplies the resulting updates by the schedule's factor, so that one number scales dense weights
    and tables alike. Where an update is linear in its learning rate (decoupled weight decay included), as for the four
    here and most of optax, this equals a scheduled learning rate. It does not for transformations that average what the
    rate has scaled already ("optax:lars") or estimate a rate themselves ("optax.contrib:prodigy"): there the factor
    scales what they return.

    Raises:
      UserError: the factory cannot be imported, or refuses an option.
    """
    if config.factory.partition(":")[0].partition(".")[0] == "optax":
        optimizer = _build_from_optax(config)
    else:
        optimizer = config.build("config.optimizer", config.learning_rate, short_names=OPTIMIZERS)
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def build_schedule(config: OptimizerConfig) -> Schedule:
    """The factor on every learning rate, a function of the step: warm-up, hold, then linear or cosine decay.

    Returns:
      step [] int32 -> factor [] float32 in [0, 1]. Step 0 of a warm-up over w steps has 1/w, not 0,
      so that no step is without effect.
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
    """Calls a function of optax with the learning rate and the options, and tries the result on a small weight."""
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
