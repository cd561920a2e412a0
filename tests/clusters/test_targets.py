"""Tests that names of clusters are parsed to sizes, and that a wrong name gives a one-line error."""

import pytest

from wukong_jax.clusters.targets import NAMED_TARGETS, find_target
from wukong_jax.errors import UserError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "platform", "hosts", "chips", "gib"),
    [
        ("v5p_4x4x4_4slices", "tpu", 4, 64, 95),
        ("tpu:v5p:4x4x4:4", "tpu", 4, 64, 95),
        ("tpu:v5e:2x4", "tpu", 1, 8, 15),
        ("h100_4x8", "gpu", 4, 8, 79),
        ("gpu:h100:2x4", "gpu", 2, 4, 79),
    ],
)
def test_name_gives_hosts_chips_and_memory(name, platform, hosts, chips, gib):
    target = find_target(name)
    assert (target.platform, target.hosts, target.chips, target.devices) == (platform, hosts, chips, hosts * chips)
    assert target.memory_bytes // GIB == gib
    assert bool(target.description) == (platform == "gpu")


def test_every_short_name_means_what_it_says():
    for short, full in NAMED_TARGETS.items():
        target = find_target(short)
        assert target.name == full
        shape = "x".join(map(str, target.shape))
        if target.platform == "gpu":
            assert short == f"{target.chip}_{target.hosts}x{shape}"
        else:
            assert short == f"{target.chip}_{shape}" + (f"_{target.hosts}slices" if target.hosts > 1 else "")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5p", "give one of"),
        ("tpu:v5p:4", "give one of"),
        ("gpu:h100:8", "give one of"),
        ("gpu:h100:4x8 ", "give one of"),
        ("tpu:v99:2x2", "TPU 'v99' is not known"),
        ("gpu:b300:1x8", "--target_config=FILE"),
        ("tpu:v5p:0x2x1", "no devices"),
        ("gpu:h100:0x8", "no devices"),
    ],
)
def test_wrong_name_is_refused_in_one_line(name, says):
    with pytest.raises(UserError, match=r"target = ") as caught:
        find_target(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_own_description_gives_another_gpu():
    target = find_target("gpu:mine:2x4", "gpu_device_info { device_memory_size: 1000 }")
    assert (target.chip, target.memory_bytes) == ("mine", 1000)


def test_description_without_memory_or_for_a_tpu_is_refused():
    with pytest.raises(UserError, match="device_memory_size"):
        find_target("gpu:h100:1x8", "gpu_device_info { }")
    with pytest.raises(UserError, match="target_config"):
        find_target("v5p_2x2x1", "gpu_device_info { device_memory_size: 1000 }")
