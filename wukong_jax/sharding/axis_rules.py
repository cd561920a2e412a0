"""Shards weights by ordered (name pattern, PartitionSpec) rules; the first match wins. FSDP splits what stays whole."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wukong_jax.errors import UserError

AxisRules = Sequence[tuple[str, PartitionSpec]]


@dataclasses.dataclass(frozen=True)
class FullSharding:
    """FSDP (fully sharded data parallel): large arrays that no rule places are split over mesh axes.

    An array is split along its longest axis that divides, the later one of equals. Arrays that no axis of which divides
    stay whole.
    """

    axes: tuple[str, ...]  # mesh axes
    min_size: int  # arrays of fewer numbers stay whole
    pattern: str = ""  # regular expression, searched for in the names of the arrays to split


def shard_by_rules(mesh: Mesh, rules: AxisRules, tree: Any, full: FullSharding | None = None) -> Any:
    """Returns the sharding of every array of a tree.

    Args:
      mesh: the device mesh.
      rules: (regular expression, spec) pairs; an expression is searched for in names such as
        "params/model/towers/kernel", and every entry of a spec is None or one mesh axis.
      tree: a pytree of arrays or of their shapes.
      full: FSDP of large arrays after the rules; None: none.

    Returns:
      A pytree of the same structure with a `NamedSharding` per array; replicated where no rule matches.

    Raises:
      UserError: an array axis does not divide evenly over its devices.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = find_rule(rules, name)
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"weights {name}: axis of size {size} does not divide over the mesh's {mesh.shape[axis]} {axis}s; "
                    "choose another mesh or model size"
                )
        large = full is not None and re.search(full.pattern, name) and math.prod(leaf.shape) >= full.min_size
        if full is not None and large and spec == PartitionSpec():
            spec = _split_longest(mesh, leaf.shape, full.axes)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)


def find_rule(rules: AxisRules, name: str) -> PartitionSpec:
    """Returns the spec of the first rule whose pattern is in a name; an empty spec if there is none."""
    return next((spec for pattern, spec in rules if re.search(pattern, name)), PartitionSpec())


def _split_longest(mesh: Mesh, shape: tuple[int, ...], axes: Sequence[str]) -> PartitionSpec:
    """Splits an array over mesh axes along its longest axis that divides over them."""
    used = tuple(axis for axis in axes if mesh.shape[axis] > 1)
    devices = math.prod(mesh.shape[axis] for axis in used)
    fitting = [(size, index) for index, size in enumerate(shape) if size % devices == 0]
    if devices == 1 or not fitting:
        return PartitionSpec()
    entries: list[Any] = [None] * len(shape)
    entries[max(fitting)[1]] = used if len(used) > 1 else used[0]
    return PartitionSpec(*entries)
