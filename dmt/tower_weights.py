"""Weights of all towers in one array: stacked on a leading axis T, each tower's block padded to the largest.

The first axis is sharded over hosts, and one matrix product per weight computes all towers of a host. Padding starts at
zero; `tower_modules` ensures that its gradient is exactly zero.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

# Standard deviation of a standard normal distribution truncated at +-2, as in JAX's variance scaling.
TRUNCATED_DEVIATION = 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class TowerWeight:
    """Shape and initialiser of one weight of all towers."""

    axes: tuple[tuple[int, ...], ...]  # for each axis after the first: its size in each of the T towers
    fan_in: int = 1  # for "normal": number of leading axes (after T) that the matrix product sums over
    gain: float = 1.0  # for "normal": mean square of the product's output divided by that of its input
    start: Literal["normal", "ones", "zeros"] = "normal"

    @property
    def count(self) -> int:
        """T."""
        return len(self.axes[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """[T, ...], each axis as large as in the largest tower."""
        return (self.count, *(max(axis) for axis in self.axes))

    def mask(self) -> np.ndarray:
        """Returns a float32 array of `shape`: 1 for entries of a tower, 0 for padding."""
        mask = np.zeros(self.shape, np.float32)
        for tower in range(self.count):
            mask[tower][self._block(tower)] = 1
        return mask

    def slice_tower(self, values: jax.Array, tower: int) -> jax.Array:
        """Returns the entries of one tower, [1, ...] without padding."""
        return values[(slice(tower, tower + 1), *self._block(tower))]

    def init(self, key: jax.Array) -> jax.Array:
        """Draws initial values; the scale of each tower depends on its fan-in.

        Args:
          key: random key; the same key gives the same weights for any placement of towers on hosts.

        Returns:
          Float32 array of `shape`, zeros in the padding.
        """
        if self.start == "zeros":
            return jnp.zeros(self.shape, jnp.float32)
        mask = self.mask()
        if self.start == "ones":
            return jnp.asarray(mask)
        summed = [math.prod(axis[tower] for axis in self.axes[: self.fan_in]) for tower in range(self.count)]
        deviations = np.sqrt(self.gain / np.maximum(summed, 1)) / TRUNCATED_DEVIATION
        scales = mask * deviations.reshape(-1, *[1] * len(self.axes))
        return jax.random.truncated_normal(key, -2.0, 2.0, self.shape, jnp.float32) * scales.astype(np.float32)

    def _block(self, tower: int) -> tuple[slice, ...]:
        return tuple(slice(axis[tower]) for axis in self.axes)
