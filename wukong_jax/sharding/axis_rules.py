"""Shards weights by ordered (name pattern, PartitionSpec) rules; the first match wins."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.errors import UserError

AxisRules = Sequence[tuple[str, PartitionSpec]]


def shard_by_rules(mesh: Mesh, rules: AxisRules, tree: Any) -> Any:
    """Returns the sharding of every array of a tree.

    Args:
      mesh: the device mesh.
      rules: (regular expression, spec) pairs; an expression is searched for in names such as
        "params/model/towers/kernel", and every entry of a spec is None or one mesh axis.
      tree: a pytree of arrays or of their shapes.

    Returns:
      A pytree of the same structure with a `NamedSharding` per array; replicated where no rule matches.

    Raises:
      UserError: an array axis does not divide evenly over its devices.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next((spec for pattern, spec in rules if re.search(pattern, name)), PartitionSpec())
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"weights {name}: axis of size {size} does not divide over the mesh's {mesh.shape[axis]} {axis}s; "
                    "choose another mesh or model size"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)
