"""Which weights are split over which mesh axis: ordered (name pattern, PartitionSpec) rules, the first match wins."""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.errors import UserError

AxisRules = Sequence[tuple[str, PartitionSpec]]


def shard_by_rules(mesh: Mesh, rules: AxisRules, tree: Any) -> Any:
    """Gives every array of a tree its sharding.

    Args:
      mesh: the devices.
      rules: regular expressions, searched for in names such as "params/model/towers/kernel", and what they imply;
        each axis of a spec is one mesh axis.
      tree: arrays or their shapes.

    Returns:
      A tree of the same structure of `NamedSharding`s; replicated where no rule matches.

    Raises:
      UserError: an axis that does not divide evenly over its devices.
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
