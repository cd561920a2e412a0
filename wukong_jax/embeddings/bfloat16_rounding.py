"""Tables in bfloat16, kept as `uint16` bits, written with unbiased stochastic rounding.

Bits, because a bfloat16 scatter on XLA:CPU goes through a float32 copy of the whole table. A bfloat16 has
8 bits of precision: an update below 1/512 of a number would always round away to nothing; rounded up with the
probability of its remainder, it survives on average.
"""

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32


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
    # One threefry block, of counter (row, block), gives 64 bits: the noise of four numbers.
    blocks = jnp.arange((width + 3) // 4, dtype=jnp.uint32)
    rows, blocks = jnp.broadcast_arrays(row_ids.astype(jnp.uint32)[:, None], blocks)
    seed = jax.random.bits(key, (2,), jnp.uint32)
    first, second = threefry_2x32(seed, jnp.stack([rows, blocks]))  # hashes the two halves of its input as pairs
    drawn = [half.astype(jnp.uint16) for word in (first, second) for half in (word, word >> 16)]
    return jnp.concatenate(drawn, axis=1)[:, :width]
