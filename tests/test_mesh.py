from types import SimpleNamespace

import jax
import pytest

from wukong_jax.errors import UserError
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
    assert count_hosts(jax.local_devices(), processes=4) == 4
