"""Times our step and PyTorch's in alternation, after their losses are found equal."""

import gc
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

from wukong_jax.bench.peers.cases import CASES, PeerCase, build_case_run, draw_case_batches
from wukong_jax.bench.peers.gemm import draw_matrices, measure_gemm, measure_xla_gemm
from wukong_jax.bench.peers.torch_step import TorchStep, to_torch_batch
from wukong_jax.errors import UserError
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.training.run import Run
from wukong_jax.training.size import count_flops

BATCHES, CHECKED_STEPS = 4, 8
LOSS_TOLERANCE = 1e-4

StepOnce = Callable[[int], float]  # trains on the batch of an index and returns the mean log loss before the step


def build_our_step(run: Run, batches: Sequence[Any]) -> StepOnce:
    """Compiles our train step and returns a function that runs it once."""
    state = run.init_state()
    placed = [put_batch(batch, run.mesh) for batch in batches]
    step = run.jit_train_step().lower(state, placed[0]).compile()

    def once(index: int) -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, placed[index % len(placed)]))
        return float(metrics["loss_sum"] / metrics["weight_sum"])

    return once


def build_their_step(run: Run, batches: Sequence[Any], *, compiled: bool) -> StepOnce:
    """Builds PyTorch's train step from the same weights and returns a function that runs it once."""
    step = TorchStep(run, run.init_state(), compiled=compiled)
    placed = [to_torch_batch(batch) for batch in batches]
    return lambda index: float(step(placed[index % len(placed)]))


def check_losses(name: str, steps: dict[str, StepOnce]) -> float:
    """Trains some steps with every implementation and compares the losses.

    Returns:
      The largest difference between a loss and ours.

    Raises:
      UserError: it exceeds the tolerance, so that times would not be those of the same network.
    """
    losses = {key: np.array([once(index) for index in range(CHECKED_STEPS)]) for key, once in steps.items()}
    gaps = {key: float(np.abs(own - losses["ours"]).max()) for key, own in losses.items()}
    for key, gap in gaps.items():
        if not gap <= LOSS_TOLERANCE:  # also if it is NaN
            raise UserError(
                f"cases = {name!r}: losses of {CHECKED_STEPS} steps differ by {gap:.1e} between ours and {key}, by "
                f"more than {LOSS_TOLERANCE:g}; nothing was timed"
            )
    return max(gaps.values())


def time_in_turns(steps: dict[str, StepOnce], rounds: int) -> dict[str, np.ndarray]:
    """Runs every step once per round, in an order that rotates; returns seconds [rounds] of each."""
    seconds: dict[str, list[float]] = {key: [] for key in steps}
    keys = list(steps)
    for index in range(rounds):
        for place in range(len(keys)):
            key = keys[(index + place) % len(keys)]
            start = time.perf_counter()
            steps[key](CHECKED_STEPS + index)
            seconds[key].append(time.perf_counter() - start)
    return {key: np.array(own) for key, own in seconds.items()}


def measure_case(name: str, case: PeerCase, rows: int, rounds: int) -> dict[str, Any]:
    """Compares and times one case.

    Args:
      name: name of the case.
      case: the case.
      rows: rows of all tables together.
      rounds: timed steps of each implementation.

    Returns:
      One row of the results; `ratio` is the median of the faster PyTorch step divided by ours.
    """
    run = build_case_run(case, rows)
    batches = draw_case_batches(case, run, BATCHES)
    torch._dynamo.reset()
    steps = {
        "ours": build_our_step(run, batches),
        "eager": build_their_step(run, batches, compiled=False),
        "compiled": build_their_step(run, batches, compiled=True),
    }
    gap = check_losses(name, steps)
    seconds = time_in_turns(steps, rounds)
    medians = {key: float(np.median(own)) for key, own in seconds.items()}
    flops = count_flops(run)["train_flops_per_example"] * case.batch
    row: dict[str, Any] = {"case": name, "width": case.width, "batch": case.batch, "rows": rows}
    for key, own in seconds.items():
        row[f"{key}_ms"] = round(medians[key] * 1e3, 1)
        row[f"{key}_minimum_ms"] = round(float(own.min()) * 1e3, 1)
    theirs = min(medians["eager"], medians["compiled"])
    return row | {
        "ratio": round(theirs / medians["ours"], 3),
        "examples_per_second": round(case.batch / medians["ours"]),
        "model_gflop": round(flops / 1e9, 2),
        "our_gflop_per_second": round(flops / medians["ours"] / 1e9, 1),
        "their_gflop_per_second": round(flops / theirs / 1e9, 1),
        "loss_gap": float(f"{gap:.1e}"),
    }


def compare(names: Sequence[str], rows: int, rounds: int) -> list[dict[str, Any]]:
    """Compares and times cases one after the other, with the rate of plain products measured beside each.

    Args:
      names: names of `CASES`.
      rows: rows of all tables together.
      rounds: timed steps of each implementation.

    Returns:
      One row per case.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_flush_denormal(True)  # as XLA does
    left, right = map(torch.from_numpy, draw_matrices())
    found = []
    for name in names:
        row = measure_case(name, CASES[name], rows, rounds)
        ours, theirs = measure_xla_gemm(), measure_gemm(torch.matmul, left, right)
        row |= {"xla_gemm": ours, "torch_gemm": theirs, "gemm_share": round(row["our_gflop_per_second"] / ours, 3)}
        found.append(row)
        gc.collect()
    return found
