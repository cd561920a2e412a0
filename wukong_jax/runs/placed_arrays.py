"""Puts arrays on the mesh, also where several processes share it."""

from typing import Any

import jax
import numpy as np

from wukong_jax.sharding.team import find_team


def place_arrays(arrays: Any, sharding: Any) -> Any:
    """Puts a pytree of arrays on the mesh; what lies on the devices of several processes is there already.

    Args:
      arrays: arrays on the host, each process with the same, or on devices.
      sharding: the sharding of each, in the same tree.

    Returns:
      The tree with arrays on devices.
    """
    if find_team().count == 1:
        return jax.device_put(arrays, sharding)

    def place(array: Any, target: Any) -> jax.Array:
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            return jax.device_put(array, target)
        hosted = np.asarray(array)
        return jax.make_array_from_callback(hosted.shape, target, lambda index: hosted[index])

    return jax.tree.map(place, arrays, sharding)
