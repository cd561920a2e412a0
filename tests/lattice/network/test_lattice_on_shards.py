"""Tests that Lattice networks and STAR train alike with dense weights split over devices: moments, 8-bit scales."""

import pytest

from tests.training.sharded_steps import check_steps


@pytest.mark.parametrize(
    ("name", "fsdp", "remat", "microbatch"),
    [
        ("lattice", "chips", True, 2),
        ("lattice", "all", False, 2),
        ("star", "all", True, 0),  # moments over all rows of the batch
    ],
)
def test_steps_on_eight_devices_are_those_on_one(name, fsdp, remat, microbatch):
    check_steps(name, fsdp, remat, microbatch)


def test_a_scale_of_eight_bits_is_that_of_the_whole_batch():
    # A value that rounds to another of 8 bits moves a gradient by some 1e-6; a scale of each device's own by 1e-3.
    check_steps("lattice in 8 bits", "all", True, 0, tolerance=2e-5)
