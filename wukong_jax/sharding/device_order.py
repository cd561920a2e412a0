"""Lays devices out in the ("host", "chip") grid, so that neighbours in the grid are neighbours on the fast link.

Slices, as JAX numbers them on TPUs and GPUs, are the groups that share a fast link. Where devices have coordinates
(TPUs), JAX's own `mesh_utils` lays the grid over the axes of the slice. Everything else keeps JAX's order, process by
process.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from wukong_jax.errors import UserError

_LISTED_ROWS = 16


def count_slices(devices: Sequence[Any]) -> int | None:
    """Returns how many slices the devices are of; None if JAX does not say. TPUs without a number are of one slice."""
    slices = {getattr(device, "slice_index", None) for device in devices}
    if slices == {None} and devices[0].platform == "tpu":
        return 1
    return None if None in slices else len(slices)


def lay_out(devices: Sequence[Any], hosts: int, chips: int) -> np.ndarray:
    """Lays all devices out.

    Args:
      devices: hosts * chips devices, in JAX's order.
      hosts: H.
      chips: C.

    Returns:
      [H, C] devices. A host is a part of a slice, or several whole ones.

    Raises:
      UserError: slices have different numbers of devices, or hosts and slices do not divide.
    """
    members: dict[int, list[Any]] = defaultdict(list)
    for device in devices:
        members[getattr(device, "slice_index", None) or 0].append(device)
    slices = [members[index] for index in sorted(members)]
    sizes = [len(own) for own in slices]
    if len(set(sizes)) > 1:
        raise UserError(
            f"the slices have {', '.join(map(str, sizes[:8]))} devices; start as many on each, or leave slices out"
        )
    count = len(slices)
    if hosts % count and count % hosts:
        raise UserError(
            f"config.mesh.hosts = {hosts}: the devices are {count} slices of {sizes[0]}; take {count} hosts, a "
            "multiple that divides the devices, or a divisor"
        )
    of_slice = max(1, hosts // count)
    grids = [_lay_out_slice(own, of_slice, len(own) // of_slice) for own in slices]
    return np.concatenate(grids).reshape(hosts, chips)


def _lay_out_slice(devices: Sequence[Any], hosts: int, chips: int) -> np.ndarray:
    """Lays the devices of one slice out; [hosts, chips]."""
    if devices[0].platform == "tpu":
        try:
            return mesh_utils.create_device_mesh((hosts, chips), devices, allow_split_physical_axes=True)
        except (AssertionError, RuntimeError, ValueError):  # chips that fill no box
            devices = sorted(devices, key=lambda device: (*reversed(device.coords), device.core_on_chip))
    grid = np.empty(len(devices), dtype=object)
    grid[:] = devices
    return grid.reshape(hosts, chips)


def describe_grid(grid: np.ndarray) -> list[str]:
    """Describes which process has which devices of each host of the mesh, as the lines of a table.

    Args:
      grid: [H, C] devices.
    """
    rows = []
    for host, devices in enumerate(grid):
        processes = defaultdict(list)
        for device in devices:
            processes[device.process_index].append(device)
        for process, own in sorted(processes.items()):
            rows.append((str(host), str(process), own[0].device_kind, _list_ids([device.id for device in own])))
    titles = ("host", "process", "kind", "devices")
    shown = rows if len(rows) <= _LISTED_ROWS else rows[: _LISTED_ROWS - 1]
    widths = [max(len(row[i]) for row in (titles, *shown)) for i in range(3)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(row[:3], widths, strict=True)), row[3]])
        for row in (titles, *shown)
    ]
    more = len(rows) - len(shown)
    last = [f"and {more} more, to host {rows[-1][0]} and process {max(int(row[1]) for row in rows)}"] if more else []
    return [f"mesh of {grid.shape[0]} x {grid.shape[1]} (hosts x chips):", *lines, *last]


def _list_ids(ids: Sequence[int]) -> str:
    """Lists numbers in ascending order, runs of them by their ends: 0-3, 8."""
    runs: list[list[int]] = []
    for number in sorted(ids):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
