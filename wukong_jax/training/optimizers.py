"""Dense optimizers on optax, and the learning-rate schedule that dense weights and tables share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from wukong_jax.config import OptimizerConfig

Schedule = Callable[[jax.Array], jax.Array]


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


def build_dense_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optax chain for dense weights, at the base learning rate.

    The train step multiplies the resulting updates by the schedule's factor, so that one number scales
    dense weights and tables alike. (For every optimizer here an update is linear in its learning rate,
    decoupled weight decay included, so this equals a scheduled learning rate.)
    """
    rate = config.learning_rate
    if config.name == "adam":
        optimizer = optax.adam(rate, config.beta1, config.beta2, config.epsilon)
    elif config.name == "adamw":
        optimizer = optax.adamw(
            rate, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay, mask=_matrices
        )
    elif config.name == "adagrad":
        optimizer = optax.adagrad(rate, initial_accumulator_value=0.0, eps=config.epsilon)
    else:
        optimizer = optax.sgd(rate)
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _matrices(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)
