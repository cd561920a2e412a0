"""Tests the loop's measurement: what windows are counted as, and tiny runs from end to end."""

import dataclasses

import numpy as np
import pytest

from wukong_jax.bench.growth import Sizes
from wukong_jax.bench.loop import WINDOW, LoopPlan, Window, measure_loop, measure_memory, summarise_loop

PLAN = LoopPlan(Sizes(batch=16, width=4, layers=1, fields=3, table_rows=40), 200, 50, 40, 500, 100, 64)
STEP, BARE = 0.010, 0.009


def made_window(last_step, extra=0.0, evaluated=False, saved=False):
    return Window(last_step, WINDOW * STEP + extra, BARE, evaluated, saved)


def test_windows_are_counted_as_what_they_hold():
    windows = [
        made_window(50, extra=9, saved=True),  # begins before the first evaluation: compiles, not counted
        made_window(90),
        made_window(110, extra=0.05, evaluated=True),
        made_window(130, extra=0.03, saved=True),
        made_window(150),
    ]
    row = summarise_loop(PLAN, [windows], [0.01, 0.01], [0.004, 0.006, 0.005])
    assert (row["bare_step_ms"], row["plain_step_ms"]) == (9, 10)
    assert row["checkpoint_cost_steps"] == pytest.approx(3)
    assert row["checkpoint_wait_steps"] == 0.5
    assert row["evaluation_ms"] == pytest.approx(50)
    assert row["forward_passes_ms"] == pytest.approx(20)  # 100 rows are two batches of 64
    whole = (4 * WINDOW * STEP + 0.05 + 0.03) / (4 * WINDOW)
    own = 0.02 / (4 * WINDOW)
    assert row["plain_slowdown_percent"] == pytest.approx(100 * (10 / 9 - 1), abs=0.05)
    assert row["loop_slowdown_percent"] == pytest.approx(100 * ((whole - own) / 0.009 - 1), abs=0.05)
    assert row["slowdown_with_evaluation_work_percent"] == pytest.approx(100 * (whole / 0.009 - 1), abs=0.05)


def test_a_tiny_loop_is_measured(tmp_path):
    row = measure_loop(tmp_path, PLAN, 1)
    # Of steps 80, 120 and 160; the first is not counted, nor is the last.
    assert len(row["checkpoint_cost_steps_values"]) == len(row["checkpoint_wait_steps_values"]) == 3
    assert min(row["checkpoint_wait_steps_values"]) > 0
    assert row["evaluation_ms"] is not None  # of steps 100 and 150
    assert min(row["bare_step_ms"], row["plain_step_ms"], row["forward_passes_ms"]) > 0


def test_memory_is_read_at_its_steps(tmp_path):
    row = measure_memory(tmp_path, dataclasses.replace(PLAN, steps=21), [10, 20])
    assert row["at_steps"] == [10, 20]
    assert np.min(row["resident_mb"]) > 50  # of a process with JAX
    assert row["growth_mb"] == pytest.approx(row["resident_mb"][1] - row["resident_mb"][0], abs=0.11)
