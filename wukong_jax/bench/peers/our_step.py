"""Runs our train step one at a time, and compares the times of two of our models with their FLOPs."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from wukong_jax.bench.peers.cases import PeerCase, build_case_run, draw_case_batches
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.training.run import Run
from wukong_jax.training.size import count_flops

BATCHES, WARM_STEPS = 4, 3

StepOnce = Callable[[int], float]  # trains on the batch of an index and returns the mean log loss before the step


def build_our_step(run: Run, batches: Sequence[Batch]) -> StepOnce:
    """Compiles our train step and returns a function that runs it once."""
    state = run.init_state()
    placed = [put_batch(batch, run.mesh) for batch in batches]
    step = run.jit_train_step().lower(state, placed[0]).compile()

    def once(index: int) -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, placed[index % len(placed)]))
        return float(metrics["loss_sum"] / metrics["weight_sum"])

    return once


def time_in_turns(steps: Mapping[str, StepOnce], rounds: int) -> dict[str, np.ndarray]:
    """Runs every step once per round, in an order that rotates; returns seconds [rounds] of each."""
    seconds: dict[str, list[float]] = {key: [] for key in steps}
    keys = list(steps)
    for index in range(rounds):
        for place in range(len(keys)):
            key = keys[(index + place) % len(keys)]
            start = time.perf_counter()
            steps[key](index)
            seconds[key].append(time.perf_counter() - start)
    return {key: np.array(own) for key, own in seconds.items()}


def measure_spread(seconds: Mapping[str, np.ndarray]) -> float:
    """Returns the largest median over minimum; well above 1, other work disturbed the steps."""
    return round(max(float(np.median(own) / own.min()) for own in seconds.values()), 3)


def count_case_flops(case: PeerCase, run: Run) -> float:
    """Counts the FLOPs of one train step: products of the dense model only."""
    return count_flops(run)["train_flops_per_example"] * case.batch


def measure_beside(name: str, case: PeerCase, base: PeerCase, rows: int, rounds: int) -> dict[str, Any]:
    """Times a case and its base in turns.

    Args:
      name: name of the case.
      case: the case.
      base: the case without the part in question.
      rows: rows of all tables together.
      rounds: timed steps of each.

    Returns:
      One row of the results; `excess` is the ratio of the times divided by the ratio of the FLOPs.
    """
    steps, flops = {}, {}
    for key, own in (("ours", case), ("base", base)):
        run = build_case_run(own, rows)
        steps[key], flops[key] = build_our_step(run, draw_case_batches(own, run, BATCHES)), count_case_flops(own, run)
        for index in range(WARM_STEPS):
            steps[key](index)
    seconds = time_in_turns(steps, rounds)
    medians = {key: float(np.median(own)) for key, own in seconds.items()}
    time_ratio, flops_ratio = medians["ours"] / medians["base"], flops["ours"] / flops["base"]
    return {
        "case": name,
        "width": case.width,
        "batch": case.batch,
        "rows": rows,
        "ours_ms": round(medians["ours"] * 1e3, 1),
        "base_ms": round(medians["base"] * 1e3, 1),
        "model_gflop": round(flops["ours"] / 1e9, 2),
        "our_gflop_per_second": round(flops["ours"] / medians["ours"] / 1e9, 1),
        "base_gflop_per_second": round(flops["base"] / medians["base"] / 1e9, 1),
        "time_ratio": round(time_ratio, 3),
        "flops_ratio": round(flops_ratio, 3),
        "excess": round(time_ratio / flops_ratio, 3),
        "spread": measure_spread(seconds),
    }
