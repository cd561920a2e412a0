"""The device mesh ("host", "chip") and the shardings of what lies on it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wukong_jax.errors import UserError

HOST, CHIP = "host", "chip"
MESH_AXES = (HOST, CHIP)


def build_mesh(hosts: int = 1, chips: int = 0, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh; rank = host * C + chip.

    Args:
      hosts: H, groups of chips that share the fast link.
      chips: C, chips per host; 0 divides all devices among the hosts.
      devices: by default all of this process's.

    Returns:
      A mesh with axes ("host", "chip") of sizes (H, C) and automatic sharding propagation.

    Raises:
      UserError: the devices do not divide into hosts, or there are too few.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    if chips == 0:
        if len(devices) % hosts:
            raise UserError(f"config.mesh.hosts = {hosts}: does not divide {len(devices)} devices; choose a divisor")
        chips = len(devices) // hosts
    if hosts * chips > len(devices):
        raise UserError(
            f"config.mesh: hosts = {hosts} times chips = {chips} is {hosts * chips} devices, but there are "
            f"{len(devices)}; choose a smaller mesh"
        )
    grid = np.asarray(devices[: hosts * chips], dtype=object).reshape(hosts, chips)
    return Mesh(grid, (HOST, CHIP), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch split over every device of the mesh, host-major."""
    return NamedSharding(mesh, PartitionSpec(MESH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_divides(mesh: Mesh, batch_size: int, key: str) -> None:
    """Refuses a batch that the mesh's devices cannot share evenly.

    Raises:
      UserError: `batch_size` is not a multiple of the device count.
    """
    if batch_size % mesh.size:
        raise UserError(f"{key} = {batch_size}: not a multiple of the mesh's {mesh.size} devices")


def compute_rank(mesh: Mesh) -> jax.Array:
    """This device's rank, host * C + chip; inside `shard_map` over the mesh only."""
    return jax.lax.axis_index(HOST) * mesh.shape[CHIP] + jax.lax.axis_index(CHIP)


def check_mesh_axes(mesh: Mesh) -> None:
    """Refuses a mesh of other axes than ("host", "chip").

    Raises:
      ValueError: it has other axes.
    """
    if mesh.axis_names != MESH_AXES:
        raise ValueError(f"mesh axes {mesh.axis_names}: the exchange needs {MESH_AXES}")
