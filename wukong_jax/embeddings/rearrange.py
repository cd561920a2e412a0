"""Reorders vectors by constant indices, with a gather as the gradient."""

import jax
import jax.numpy as jnp
import numpy as np


def invert_index(index: np.ndarray, size: int) -> np.ndarray:
    """Inverts an index without repetitions.

    Args:
      index: [M] int, different positions in [0, size), or -1 for none.
      size: number of positions that the index reads from.

    Returns:
      [size] int32 target of each position, -1 if it is not read.
    """
    inverse = np.full(size, -1, np.int32)
    inverse[index[index >= 0]] = np.flatnonzero(index >= 0)
    return inverse


def take_vectors(values: jax.Array, index: np.ndarray) -> jax.Array:
    """Selects vectors by a constant index.

    JAX would compute the gradient by a scatter-add. Because no vector is selected twice, a gather gives the same
    gradient and is many times faster on CPU.

    Args:
      values: [..., M, w].
      index: [M'] int, different positions in [0, M), or -1 for a zero vector.

    Returns:
      [..., M', w].
    """
    size = values.shape[-2]
    if np.array_equal(index, np.arange(size)):
        return values
    return gather_vectors(values, jnp.asarray(index, jnp.int32), jnp.asarray(invert_index(index, size)))


@jax.custom_vjp
def gather_vectors(values: jax.Array, index: jax.Array, inverse: jax.Array) -> jax.Array:
    """Selects vectors like `take_vectors`, but by a traced index and its inverse, which may differ between ranks.

    Args:
      values: [..., M, w].
      index: [M'] int32, different positions in [0, M), or -1 for a zero vector.
      inverse: [M] int32, see `invert_index`.

    Returns:
      [..., M', w].
    """
    del inverse
    return _take(values, index)


def _take(values: jax.Array, index: jax.Array) -> jax.Array:
    # JAX would read the last position for -1, regardless of the mode.
    index = jnp.where(index < 0, values.shape[-2], index)
    return jnp.take(values, index, axis=-2, mode="fill", fill_value=0)


def _forward(values: jax.Array, index: jax.Array, inverse: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _take(values, index), (index, inverse)


def _backward(residuals: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, None, None]:
    _, inverse = residuals
    return _take(gradient, inverse), None, None


gather_vectors.defvjp(_forward, _backward)
