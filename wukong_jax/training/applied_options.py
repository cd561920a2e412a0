"""Refuses options of a train step that have no effect on the network or mesh at hand, and describes the others."""

import math
from typing import Any

import jax
from jax.sharding import Mesh

from wukong_jax.config import RunConfig
from wukong_jax.errors import UserError
from wukong_jax.sharding.axis_rules import AxisRules, find_rule
from wukong_jax.sharding.mesh import CHIP

_MILLION = 1e6


def check_mesh_options(config: RunConfig, mesh: Mesh) -> None:
    """Checks that the mesh has devices to share dense weights and gradients with.

    Raises:
      UserError: it has not, but the config asks for it.
    """
    chips, devices = mesh.shape[CHIP], mesh.size
    if config.mesh.fsdp != "none" and (chips if config.mesh.fsdp == "chips" else devices) == 1:
        found, fix = ("a host has 1 chip", "take 'all'") if devices > 1 else ("the mesh has 1 device", "leave it out")
        raise UserError(f"config.mesh.fsdp = {config.mesh.fsdp!r}: {found}, so there is nothing to split over; {fix}")
    if config.mesh.reduce_dtype != "float32" and devices == 1:
        raise UserError(
            f"config.mesh.reduce_dtype = {config.mesh.reduce_dtype!r}: the mesh has 1 device, so nothing is sent; "
            "leave it out"
        )


def check_layers(config: RunConfig, layers: list[str]) -> None:
    """Checks that the network has layers to rematerialise if it is asked for.

    Args:
      config: config of the run.
      layers: paths of the network's layers, see `layers.rematerialise`.

    Raises:
      UserError: there are none.
    """
    if config.training.remat and not layers:
        raise UserError(
            f"config.training.remat = True: {config.model.factory!r} has no layers that can be computed again (linear "
            "layers, or modules whose class sets is_layer); leave it out"
        )


def count_split(params: Any, sharding: Any, rules: AxisRules) -> tuple[int, int]:
    """Counts the numbers of dense weights that FSDP splits, and of all.

    Args:
      params: dense weights, as arrays or shapes.
      sharding: their shardings.
      rules: rules that were applied before.
    """
    split = total = 0
    for (path, weight), placed in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(sharding), strict=True
    ):
        name = "params/" + jax.tree_util.keystr(path, simple=True, separator="/")
        size = math.prod(weight.shape)
        total += size
        split += size if placed.spec != find_rule(rules, name) else 0
    return split, total


def check_split(config: RunConfig, split: int) -> None:
    """Checks that FSDP splits at least one weight if it is asked for.

    Raises:
      UserError: it splits none.
    """
    if config.mesh.fsdp != "none" and not split:
        raise UserError(
            f"config.mesh.fsdp = {config.mesh.fsdp!r}: no dense weight has fsdp_min_size = "
            f"{config.mesh.fsdp_min_size} numbers or more and an axis that divides over the devices; leave it out, or "
            "lower config.mesh.fsdp_min_size"
        )


def describe_split(config: RunConfig, mesh: Mesh, split: int, total: int) -> str:
    """Describes, for the user, how dense weights are split; "" if they are not."""
    if not split:
        return ""
    over = f"{mesh.shape[CHIP]} chips of each host" if config.mesh.fsdp == "chips" else f"{mesh.size} devices"
    return (
        f"{split / _MILLION:.2f} of {total / _MILLION:.2f} million numbers of the dense weights are split over {over} "
        "(FSDP), the others copied"
    )
