"""Builds the ("host", "chip") device mesh and the shardings of batches and replicated arrays on it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wukong_jax.errors import UserError
from wukong_jax.sharding.backend import find_devices
from wukong_jax.sharding.device_order import count_slices, lay_out
from wukong_jax.sharding.team import find_team

HOST, CHIP = "host", "chip"
MESH_AXES = (HOST, CHIP)


def build_mesh(hosts: int = 1, chips: int = 0, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh, in which a device's rank is host * C + chip.

    Args:
      hosts: H, number of hosts; a host is a group of chips that share the fast link.
      chips: C, chips per host; 0 divides all devices among the hosts. Where several processes train together, one host
        and no chips is a host per slice, or per process; see `count_hosts`.
      devices: the devices to use, host by host; by default all devices of the processes that train together, laid out
        by `device_order`.

    Returns:
      A mesh with axes ("host", "chip") of sizes (H, C) and automatic sharding propagation.

    Raises:
      UserError: the devices do not divide into hosts or slices, there are too few, some process has none of them, or
        JAX finds none.
    """
    processes = find_team().count if devices is None else 1
    in_order = devices is not None
    devices = list(find_devices() if devices is None else devices)
    if (hosts, chips) == (1, 0) and processes > 1:
        hosts = count_hosts(devices, processes)
    if chips == 0:
        if len(devices) % hosts:
            raise UserError(f"config.mesh.hosts = {hosts}: does not divide {len(devices)} devices; choose a divisor")
        chips = len(devices) // hosts
    if hosts * chips > len(devices):
        raise UserError(
            f"config.mesh: hosts = {hosts} times chips = {chips} is {hosts * chips} devices, but there are "
            f"{len(devices)}; choose a smaller mesh"
        )
    if processes > 1 and hosts * chips < len(devices):
        raise UserError(
            f"config.mesh: hosts = {hosts} times chips = {chips} is {hosts * chips} devices of the {len(devices)} of "
            f"{processes} processes; take all, or start fewer processes or devices"
        )
    if in_order or hosts * chips < len(devices):
        grid = np.asarray(devices[: hosts * chips], dtype=object).reshape(hosts, chips)
    else:
        grid = lay_out(devices, hosts, chips)
    return Mesh(grid, (HOST, CHIP), axis_types=(AxisType.Auto, AxisType.Auto))


def count_hosts(devices: Sequence[Any], processes: int) -> int:
    """Returns how many groups of devices share a fast link, as far as JAX tells.

    JAX numbers the slices of TPUs, and of GPUs the nodes or NVLink domains. A slice may span several processes, and a
    node may have a process for every GPU. Of CPUs it numbers the machines.

    Args:
      devices: devices of all processes.
      processes: number of processes.

    Returns:
      The number of slices; of processes if JAX does not number them.
    """
    slices = count_slices(devices)
    return processes if slices is None else slices


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits a batch's rows over all devices of the mesh in rank order."""
    return NamedSharding(mesh, PartitionSpec(MESH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a copy of an array on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def find_own_rows(mesh: Mesh, batch_size: int) -> np.ndarray | None:
    """Returns which rows of a batch lie on this process's devices, as the batch's sharding says.

    Returns:
      [own rows] int64 positions in the batch, ascending; None: all, because all devices are of this process.
    """
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return None
    return np.concatenate([np.arange(rows.start, rows.stop) for _, rows in _list_own_slices(sharding, batch_size)])


def place_own_rows(mesh: Mesh, array: np.ndarray) -> jax.Array:
    """Copies this process's rows of a batch to its devices, as its part of the array of the whole batch.

    Args:
      mesh: mesh with axes ("host", "chip").
      array: [own rows, ...] in the order of `find_own_rows`.

    Returns:
      [B, ...], sharded over the mesh.
    """
    sharding = batch_sharding(mesh)
    rows = len(array) // len(sharding.addressable_devices)
    own = _list_own_slices(sharding, rows * mesh.size)
    parts = [jax.device_put(array[i * rows : (i + 1) * rows], device) for i, (device, _) in enumerate(own)]
    return jax.make_array_from_single_device_arrays((rows * mesh.size, *array.shape[1:]), sharding, parts)


def _list_own_slices(sharding: NamedSharding, batch_size: int) -> list[tuple[jax.Device, slice]]:
    """Lists this process's devices with their rows of a batch, in the order of the rows."""
    placed = sharding.addressable_devices_indices_map((batch_size,)).items()
    own = [(device, slice(*index[0].indices(batch_size))) for device, index in placed if index is not None]
    return sorted(own, key=lambda item: item[1].start)


def place_copies(mesh: Mesh, value: Any) -> jax.Array:
    """Copies a value that all processes have to every device of the mesh; no process asks another."""
    array = np.asarray(value)
    return jax.make_array_from_callback(array.shape, replicated(mesh), lambda index: array[index])


@functools.lru_cache(maxsize=4)
def _build_gather(mesh: Mesh) -> Any:
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


def gather_rows(mesh: Mesh, arrays: Any) -> Any:
    """Copies a pytree of sharded arrays whole to every device; all processes call it together."""
    return _build_gather(mesh)(arrays)


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
