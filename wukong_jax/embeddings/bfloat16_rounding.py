"""Tables in bfloat16, kept as `uint16` bits, written with unbiased stochastic rounding.

Bits, because a bfloat16 scatter on XLA:CPU goes through a float32 copy of the whole table. A bfloat16 has
8 bits of precision: an update below 1/512 of a number would always round away to nothing; rounded up with the
probability of its remainder, it survives on average.
"""

import jax
import jax.numpy as jnp


def bits_to_float32(bits: jax.Array) -> jax.Array:
    """Reads bfloat16 bits, exactly.

    Args:
      bits: [...] uint16.

    Returns:
      [...] float32.
    """
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)


def round_to_nearest_bits(values: jax.Array) -> jax.Array:
    """Rounds float32 to the nearest bfloat16.

    Args:
      values: [...] float32.

    Returns:
      [...] uint16 bits.
    """
    return jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)


def round_stochastically(values: jax.Array, noise: jax.Array) -> jax.Array:
    """Rounds float32 to one of the two neighbouring bfloat16 numbers, right on average.

    Args:
      values: [...] float32.
      noise: [...] uint16, uniform; a number rounds away from zero when noise and remainder carry.

    Returns:
      [...] uint16 bits; infinities and NaN stay what they are.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    rounded = ((bits + noise.astype(jnp.uint32)) >> 16).astype(jnp.uint16)
    return jnp.where(jnp.isfinite(values), rounded, round_to_nearest_bits(values))


def draw_row_noise(key: jax.Array, row_ids: jax.Array, width: int) -> jax.Array:
    """Draws the noise of each row's numbers from the key and the row's own id.

    Drawn by row and not by position in the batch, so that neither the order of a batch, nor how it is
    spread over devices, nor how equal rows were merged changes the rounding.

    Args:
      key: a random key, different in every step.
      row_ids: [M] int32.
      width: numbers in a row.

    Returns:
      [M, width] uint16, uniform.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)
    columns = jnp.arange(1, width + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    by_row = _mix_bits(row_ids.astype(jnp.uint32) ^ seed[0])
    return (_mix_bits((by_row[:, None] + columns) ^ seed[1]) >> 16).astype(jnp.uint16)


def _mix_bits(words: jax.Array) -> jax.Array:
    """A hash of 32 bits onto 32 bits: cheaper than a cipher, and rounding needs uniform bits, not secret ones."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x21F0AAAD)
    words = (words ^ (words >> 15)) * jnp.uint32(0xD35A2D97)
    return words ^ (words >> 15)
