"""Rounds float32 rows to bfloat16, to nearest or stochastically (unbiased), stored as `uint16` bits.

Tables store bits because XLA:CPU implements a bfloat16 scatter through a float32 copy of the whole table. A bfloat16
has 8 bits of precision, so rounding to nearest would always lose an update below 1/512 of a number. Stochastic rounding
rounds up with a probability equal to the remainder, which preserves the update on average.
"""

import jax
import jax.numpy as jnp


def bits_to_float32(bits: jax.Array) -> jax.Array:
    """Converts bfloat16 bits to float32, exactly.

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
    """Rounds float32 to one of the two neighbouring bfloat16 numbers, without bias.

    Args:
      values: [...] float32.
      noise: [...] uint16, uniform; a number rounds away from zero if the sum of noise and remainder carries.

    Returns:
      [...] uint16 bits; infinities and NaN are unchanged.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    rounded = ((bits + noise.astype(jnp.uint32)) >> 16).astype(jnp.uint16)
    return jnp.where(jnp.isfinite(values), rounded, round_to_nearest_bits(values))


def draw_row_noise(key: jax.Array, row_ids: jax.Array, width: int) -> jax.Array:
    """Draws the noise for each row from the key and the row id.

    Noise depends on the row and not on its position in the batch, so that the order of the batch, its distribution
    over devices and the method of merging equal rows do not change the rounding.

    Args:
      key: random key, different in every step.
      row_ids: [M] int32.
      width: number of columns of a row.

    Returns:
      [M, width] uint16, uniform.
    """
    seed = jax.random.bits(key, (2,), jnp.uint32)
    columns = jnp.arange(1, width + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9)
    by_row = _mix_bits(row_ids.astype(jnp.uint32) ^ seed[0])
    return (_mix_bits((by_row[:, None] + columns) ^ seed[1]) >> 16).astype(jnp.uint16)


def _mix_bits(words: jax.Array) -> jax.Array:
    """Hashes 32 bits to 32 bits; cheaper than a cryptographic hash, and rounding needs only uniform bits."""
    words = (words ^ (words >> 16)) * jnp.uint32(0x21F0AAAD)
    words = (words ^ (words >> 15)) * jnp.uint32(0xD35A2D97)
    return words ^ (words >> 15)
