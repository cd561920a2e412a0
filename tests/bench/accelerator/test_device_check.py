"""Tests that the comparison with the CPU finds steps that differ, and which differences it measures."""

import dataclasses

import jax
import numpy as np
import pytest

from wukong_jax.bench.accelerator import device_check
from wukong_jax.bench.accelerator.device_check import CASES, Taken, build_check_run, check_step, compare

CASE = CASES["dlrm sgd"]


@pytest.fixture
def plain_programs():
    """Compiles without optimizations, which takes less time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def take(change: float) -> Taken:
    before, after = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 1.0])
    return Taken([0.5, 0.4], ([before], [after + change * np.eye(3)[0]]), ([before + 1], [after + 1]))


def test_differences_are_shares_of_what_training_changed():
    found = compare(dataclasses.replace(take(0.02), losses=[0.5, 0.404]), take(0.0))
    assert found == {"loss_difference": 0.01, "dense_difference": 0.01, "rows_difference": 0.0}


def test_an_array_that_hardly_changes_is_compared_with_a_hundredth_of_the_largest_change():
    before = [np.zeros(2), np.zeros(3)]
    still = Taken([1.0], (before, [np.array([3.0, 4.0]), np.zeros(3)]), (before[:1], [np.ones(2)]))
    moved = dataclasses.replace(still, dense=(before, [np.array([3.0, 4.0]), 0.01 * np.eye(3)[0]]))
    assert compare(moved, still)["dense_difference"] == 0.2


def test_a_step_with_another_rate_is_found(monkeypatch, plain_programs):
    small = dataclasses.replace(CASE, options={"top_hidden": (8,), "bottom_hidden": (8,)})

    def build(case, batch, device, dtype, microbatch):
        rate = 0.1 if microbatch == 0 else 0.101
        own = dataclasses.replace(small, optimizer={"kind": "sgd", "learning_rate": rate})
        return build_check_run(own, batch, device, dtype, microbatch)

    monkeypatch.setattr(device_check, "build_check_run", build)
    with pytest.raises(RuntimeError, match=r"rows_difference = .* between cpu and cpu; the limit is 0\.001"):
        check_step(small, 32)


def test_the_device_and_the_reference_take_the_batch_in_different_parts():
    cpu = jax.devices("cpu")[0]
    assert build_check_run(CASE, 32, cpu, "float32", 8).count_parts() == 4
    assert build_check_run(CASE, 32, cpu, "float32", 0).count_parts() == 1
