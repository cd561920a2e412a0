"""Times our step and PyTorch's in alternation, after their losses are found equal."""

import gc
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from wukong_jax.bench.peers.cases import CASES, OWN_CASES, PeerCase, build_case_run, draw_case_batches
from wukong_jax.bench.peers.gemm import draw_matrices, measure_gemm, measure_xla_gemm
from wukong_jax.bench.peers.our_step import (
    BATCHES,
    StepOnce,
    build_our_step,
    count_case_flops,
    measure_beside,
    measure_spread,
    time_in_turns,
)
from wukong_jax.bench.peers.torch_step import TorchStep, to_torch_batch
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.errors import UserError
from wukong_jax.training.run import Run

CHECKED_STEPS = 5
LOSS_TOLERANCE = 1e-4


def build_their_step(run: Run, batches: Sequence[Batch], *, compiled: bool) -> StepOnce:
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
    flops = count_case_flops(case, run)
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
        "spread": measure_spread(seconds),
    }


def compare(name: str, rows: int, rounds: int) -> dict[str, Any]:
    """Compares and times a case, with the rate of plain products measured beside it.

    Args:
      name: name of `CASES` or `OWN_CASES`.
      rows: rows of all tables together.
      rounds: timed steps of each implementation.

    Returns:
      One row of the results.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_flush_denormal(True)  # as XLA does
    gc.collect()
    if name in OWN_CASES:
        row = measure_beside(name, *OWN_CASES[name], rows, rounds)
    else:
        row = measure_case(name, CASES[name], rows, rounds)
    left, right = map(torch.from_numpy, draw_matrices())
    ours, theirs = measure_xla_gemm(), measure_gemm(torch.matmul, left, right)
    return row | {"xla_gemm": ours, "torch_gemm": theirs, "gemm_share": round(row["our_gflop_per_second"] / ours, 3)}
