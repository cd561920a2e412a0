"""Tests that Lattice networks and STAR train alike with dense weights split over devices: moments, 8-bit scales."""

import pytest

from tests.training.sharded_steps import check_steps


@pytest.mark.parametrize(
    ("name", "fsdp", "remat", "microbatch"),
    [
        ("lattice", "chips", True, 2),
        ("lattice", "all", False, 2),
        ("lattice in 8 bits", "all", True, 0),  # one scale over all rows of the batch
        ("star", "all", False, 0),  # moments over all rows of the batch
        ("star", "chips", True, 0),
    ],
)
def test_steps_on_eight_devices_are_those_on_one(name, fsdp, remat, microbatch):
    check_steps(name, fsdp, remat, microbatch)
