import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from wukong_jax.clusters.compile_ahead import describe_devices, has_compiler, use_no_accelerator
from wukong_jax.clusters.targets import find_target
from wukong_jax.errors import UserError
from wukong_jax.sharding.device_order import describe_grid, lay_out
from wukong_jax.sharding.mesh import build_mesh, check_batch_divides, count_hosts


def test_rank_is_host_times_chips_plus_chip():
    mesh = build_mesh(hosts=2, chips=4)
    assert mesh.axis_names == ("host", "chip")
    devices = jax.local_devices()
    assert [[d.id for d in row] for row in mesh.devices] == [
        [devices[host * 4 + chip].id for chip in range(4)] for host in range(2)
    ]


def test_all_devices_are_shared_out_by_default():
    assert build_mesh(hosts=4).devices.shape == (4, 2)


@pytest.mark.parametrize(("hosts", "chips"), [(3, 0), (3, 3)])
def test_a_mesh_that_does_not_fit_is_refused_with_its_numbers(hosts, chips):
    with pytest.raises(UserError, match=r"3.*8 devices|are 8"):
        build_mesh(hosts=hosts, chips=chips)


def test_a_batch_the_mesh_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch_size = 100"):
        check_batch_divides(build_mesh(), 100, "config.training.batch_size")


def test_hosts_are_slices_where_jax_numbers_them():
    two_slices = [SimpleNamespace(slice_index=i // 8) for i in range(16)]  # of four processes with four chips each
    assert count_hosts(two_slices, processes=4) == 2
    assert count_hosts(two_slices[:8], processes=2) == 1
    assert count_hosts(make_slice(4, 4, 4), processes=16) == 1  # JAX does not number a TPU's only slice
    assert count_hosts(jax.local_devices(), processes=4) == 4


@dataclasses.dataclass(frozen=True)
class FakeChip:
    """What JAX says of a device, for topologies that are not here."""

    id: int
    coords: tuple[int, int, int] = (0, 0, 0)
    slice_index: int | None = None
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    core_on_chip: int = 0


def make_slice(*sizes: int, slice_index: int | None = None, first: int = 0) -> list[FakeChip]:
    """A TPU slice, its chips numbered along x, then y, then z, four of them (2 x 2) in a process."""
    x, y, z = sizes
    places = itertools.product(range(z), range(y), range(x))
    return [
        FakeChip(first + i, (a, b, c), slice_index, first // 4 + a // 2 + x // 2 * (b // 2 + max(1, y // 2) * c))
        for i, (c, b, a) in enumerate(places)
    ]


def span(devices: Iterable[FakeChip]) -> int:
    """Chips of the smallest box around some chips; as many as they are if nothing else lies between them."""
    places = np.array([device.coords for device in devices])
    return int(np.prod(places.max(axis=0) - places.min(axis=0) + 1))


@pytest.mark.parametrize("hosts", [1, 2, 4, 8, 16])
def test_hosts_within_a_slice_are_boxes_of_chips(hosts: int) -> None:
    grid = lay_out(make_slice(4, 4, 4), hosts, 64 // hosts)
    assert len({device.id for device in grid.flat}) == 64
    assert [span(row) for row in grid] == [64 // hosts] * hosts


def test_hosts_are_slices_whatever_the_order_of_devices() -> None:
    slices = [make_slice(2, 2, 1, slice_index=i, first=100 * i) for i in range(4)]
    mixed = [device for group in zip(*slices[::-1], strict=True) for device in group]
    grid = lay_out(mixed, 4, 4)
    assert [{device.slice_index for device in row} for row in grid] == [{0}, {1}, {2}, {3}]
    finer = lay_out(mixed, 8, 2)
    assert [{device.slice_index for device in row} for row in finer] == [{i // 2} for i in range(8)]
    assert [span(row) for row in finer] == [2] * 8
    assert [{device.slice_index for device in row} for row in lay_out(mixed, 2, 8)] == [{0, 1}, {2, 3}]


def test_devices_without_coordinates_keep_their_order() -> None:
    devices = [FakeChip(7 - i, platform="gpu", process_index=i // 4) for i in range(8)]
    assert lay_out(devices, 2, 4).reshape(-1).tolist() == devices


def test_chips_that_are_no_whole_box_are_ordered_by_their_coordinates() -> None:
    chips = make_slice(2, 2, 1)[:3]
    assert lay_out(chips[::-1], 3, 1).reshape(-1).tolist() == chips


@pytest.mark.parametrize(
    ("devices", "hosts", "message"),
    [
        (make_slice(2, 2, 1, slice_index=0) + make_slice(2, 1, 1, slice_index=1), 2, "slices have 4, 2 devices"),
        ([FakeChip(i, (i % 4, 0, 0), i // 4) for i in range(12)], 2, "hosts = 2: the devices are 3 slices of 4"),
    ],
)
def test_slices_that_do_not_divide_are_refused_with_their_numbers(devices, hosts, message) -> None:
    with pytest.raises(UserError, match=message):
        lay_out(devices, hosts, len(devices) // hosts)


def test_the_mesh_is_described_as_a_table() -> None:
    grid = lay_out([FakeChip(i, slice_index=i // 8, process_index=i // 4, platform="gpu") for i in range(16)], 2, 8)
    assert describe_grid(grid) == [
        "mesh of 2 x 8 (hosts x chips):",
        "host  process  kind    devices",
        "0     0        TPU v5  0-3",
        "0     1        TPU v5  4-7",
        "1     2        TPU v5  8-11",
        "1     3        TPU v5  12-15",
    ]
    many = np.array([FakeChip(i, process_index=i) for i in range(64)], dtype=object).reshape(32, 2)
    assert describe_grid(many)[-1] == "and 49 more, to host 31 and process 63"
    assert len(describe_grid(many)) == 18


@pytest.mark.skipif(not has_compiler("tpu"), reason="needs libtpu (pip install '.[tpu]')")
@pytest.mark.parametrize(("target", "hosts"), [("v5p_4x4x4_4slices", 4), ("v6e_16x16", 4), ("v5e_2x4", 2)])
def test_hosts_of_real_topologies_are_boxes_of_chips(target: str, hosts: int) -> None:
    """In a process of its own, because JAX takes its platforms once."""
    done = subprocess.run([sys.executable, __file__, target, str(hosts)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all are boxes"


def check_topology(target: str, hosts: int) -> None:
    use_no_accelerator()
    devices = describe_devices(find_target(target))
    grid = lay_out(devices, hosts, len(devices) // hosts)
    assert len({device.id for device in grid.flat}) == len(devices)
    assert [span(row) for row in grid] == [grid.shape[1]] * hosts
    print("all are boxes")


if __name__ == "__main__":
    check_topology(sys.argv[1], int(sys.argv[2]))
