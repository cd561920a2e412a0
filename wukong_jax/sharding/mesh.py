"""Builds the ("host", "chip") device mesh and the shardings of batches and replicated arrays on it."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wukong_jax.errors import UserError
from wukong_jax.sharding.backend import find_local_devices

HOST, CHIP = "host", "chip"
MESH_AXES = (HOST, CHIP)


def build_mesh(hosts: int = 1, chips: int = 0, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh, in which a device's rank is host * C + chip.

    Args:
      hosts: H, number of hosts; a host is a group of chips that share the fast link.
      chips: C, chips per host; 0 divides all devices among the hosts.
      devices: the devices to use; by default all devices of this process.

    Returns:
      A mesh with axes ("host", "chip") of sizes (H, C) and automatic sharding propagation.

    Raises:
      UserError: the devices do not divide into hosts, there are too few, or JAX finds none.
    """
    devices = list(find_local_devices() if devices is None else devices)
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
    """Returns the sharding that splits a batch's rows over all devices of the mesh in rank order."""
    return NamedSharding(mesh, PartitionSpec(MESH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a copy of an array on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_divides(mesh: Mesh, batch_size: int, key: str) -> None:
    """Checks that a batch divides evenly over the mesh's devices.

    Raises:
      UserError: `batch_size` is not a multiple of the device count.
    """
    if batch_size % mesh.size:
        raise UserError(f"{key} = {batch_size}: not a multiple of the mesh's {mesh.size} devices")


def round_up_batch(mesh: Mesh, batch_size: int) -> int:
    """Returns the smallest multiple of the device count that holds a batch; the additional rows are padding."""
    return -(-batch_size // mesh.size) * mesh.size


def compute_rank(mesh: Mesh) -> jax.Array:
    """Returns this device's rank, host * C + chip; call only inside `shard_map` over the mesh."""
    return jax.lax.axis_index(HOST) * mesh.shape[CHIP] + jax.lax.axis_index(CHIP)


def check_mesh_axes(mesh: Mesh) -> None:
    """Checks that the mesh's axes are ("host", "chip").

    Raises:
      ValueError: the mesh has other axes.
    """
    if mesh.axis_names != MESH_AXES:
        raise ValueError(f"mesh axes {mesh.axis_names}: the exchange needs {MESH_AXES}")
