import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from wukong_jax.embeddings.bfloat16_rounding import (
    bits_to_float32,
    draw_row_noise,
    round_stochastically,
    round_to_nearest_bits,
)


def test_bits_are_those_of_bfloat16() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    values = np.concatenate([values, [0, -0.0, np.inf, -np.inf, 1e-39, 3e38]]).astype(np.float32)
    expected = values.astype(ml_dtypes.bfloat16)
    bits = np.asarray(round_to_nearest_bits(jnp.asarray(values)))
    np.testing.assert_array_equal(bits, expected.view(np.uint16))
    np.testing.assert_array_equal(bits_to_float32(jnp.asarray(bits)), expected.astype(np.float32))


@pytest.mark.parametrize("value", [1.001, -0.3, 3e-5, 0.999])
def test_rounding_is_unbiased_and_to_a_neighbour(value: float) -> None:
    draws = 1 << 16
    noise = draw_row_noise(jax.random.key(3), jnp.arange(draws // 16), 16).reshape(-1)
    rounded = np.asarray(bits_to_float32(round_stochastically(jnp.full(draws, value, jnp.float32), noise)))
    low, high = rounded.min(), rounded.max()
    gap = high - low
    exact = float(np.float32(value))
    assert low <= exact <= high
    assert 0 < gap <= abs(exact) * 2**-7  # neighbours: 8 bits of precision
    # Standard error of the mean is at most gap / 2 / sqrt(draws); 5 of them.
    assert abs(rounded.astype(np.float64).mean() - exact) < 5 * gap / 2 / np.sqrt(draws)


def test_bfloat16_numbers_stay_and_so_do_infinity_and_nan() -> None:
    values = np.array([0.0, 1.0, -2.5, np.inf, -np.inf, np.nan], np.float32)
    noise = jnp.full(6, 65535, jnp.uint16)
    np.testing.assert_array_equal(bits_to_float32(round_stochastically(jnp.asarray(values), noise)), values)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_noise_depends_on_key_and_row_alone(width: int) -> None:
    key = jax.random.key(0)
    noise = np.asarray(draw_row_noise(key, jnp.array([4, 9, 4]), width))
    assert (noise.dtype, noise.shape) == (np.uint16, (3, width))
    np.testing.assert_array_equal(noise[0], noise[2])
    np.testing.assert_array_equal(noise[1], np.asarray(draw_row_noise(key, jnp.array([9]), width))[0])
    many = np.asarray(draw_row_noise(key, jnp.arange(1000), width))
    other = np.asarray(draw_row_noise(jax.random.key(1), jnp.arange(1000), width))
    assert len(np.unique(many, axis=0)) > 990 - 10 * (width == 1)
    assert (many != other).mean() > 0.99


def test_noise_is_uniform_and_unrelated_between_neighbours() -> None:
    noise = np.asarray(draw_row_noise(jax.random.key(0), jnp.arange(1 << 14), 16)).astype(np.float64) / 65536
    counts = np.histogram(noise, bins=64, range=(0, 1))[0]
    expected = noise.size / 64
    # A chi-square of 63 degrees of freedom: mean 63, deviation sqrt(126); 5 of them.
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(126)
    centred = noise - 0.5
    pairs = {
        "columns": (centred[:, 1:], centred[:, :-1]),
        "rows": (centred[1:], centred[:-1]),
        "far rows": (centred[1 << 13 :], centred[: 1 << 13]),
    }
    for name, (left, right) in pairs.items():
        # Correlation of independent numbers: standard error 1 / sqrt(n); 5 of them.
        assert abs((left * right).mean() * 12) < 5 / np.sqrt(left.size), name
