"""Weights of all towers in one array: stacked on a leading axis T, each tower's block padded to the largest.

Stacked, they divide over hosts by their first axis, and one product per weight serves all towers of a host. Entries
beyond a tower's own sizes start at zero; `tower_modules` sees to it that they get a gradient of exactly zero.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

# Standard deviation of a normal distribution cut at two, as in JAX's own variance scaling.
TRUNCATED_DEVIATION = 0.87962566103423978


@dataclasses.dataclass(frozen=True)
class TowerWeight:
    """One weight of every tower: its sizes and its start."""

    axes: tuple[tuple[int, ...], ...]  # of each axis after the first, its size in each of the T towers
    fan_in: int = 1  # for "normal": how many of these axes, from the first, a product sums over
    gain: float = 1.0  # for "normal": mean square of the product's output over its input's
    start: Literal["normal", "ones", "zeros"] = "normal"

    @property
    def count(self) -> int:
        """T."""
        return len(self.axes[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """[T, ...], every axis as large as its largest tower's."""
        return (self.count, *(max(axis) for axis in self.axes))

    def mask(self) -> np.ndarray:
        """1 where a tower has an entry, 0 in the padding; float32 in the weight's shape."""
        mask = np.zeros(self.shape, np.float32)
        for tower in range(self.count):
            mask[tower][self._block(tower)] = 1
        return mask

    def slice_tower(self, values: jax.Array, tower: int) -> jax.Array:
        """One tower's own entries, [1, ...] without padding."""
        return values[(slice(tower, tower + 1), *self._block(tower))]

    def init(self, key: jax.Array) -> jax.Array:
        """Draws the start; each tower's scale follows its own fan-in.

        Args:
          key: a random key; the same one gives the same weights however the towers lie on hosts.

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
