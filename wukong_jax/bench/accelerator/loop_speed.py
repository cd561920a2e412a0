"""Compares the train loop, which reads row blocks, with the bare step on a batch that lies on the device."""

import functools
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from wukong_jax.bench.accelerator.sizes import Cases, Row, Size
from wukong_jax.bench.accelerator.step_runs import build_step_config, build_step_run, draw_step_batch
from wukong_jax.bench.accelerator.timing import time_calls
from wukong_jax.bench.random_blocks import write_random_blocks
from wukong_jax.config import build_run_config
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.train_run import train_run
from wukong_jax.training.compiled_programs import keep_programs_in
from wukong_jax.training.loop import Listener, PlacedBatch, TrainLoop
from wukong_jax.training.run import Run
from wukong_jax.training.step import StepMetrics

WARM_STEPS = 5


class StepClock(Listener):
    """Measures the seconds from the end of the first few steps to the end of the last."""

    def __init__(self) -> None:
        """Starts with no time."""
        self.seconds = 0.0
        self._start = 0.0

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Waits for the step if it is the last that is not timed, or the last of all."""
        if loop.step == WARM_STEPS or loop.at_last_step:
            jax.block_until_ready(metrics)
            now = time.perf_counter()
            self.seconds, self._start = now - self._start, now


def list_cases(size: Size) -> Cases:
    """Returns the stage's cases."""
    return {f"{n} reader threads": functools.partial(measure_loop, size, n) for n in size.reader_threads}


def measure_loop(size: Size, threads: int) -> Row:
    """Trains from blocks on the disk with the normal loop, and times the bare step.

    Args:
      size: gives the step, the rows and the number of steps.
      threads: threads that read the blocks.
    """
    case, steps = size.steps[size.loop_step], WARM_STEPS + size.loop_steps
    run = build_step_run(case, "float32")
    with tempfile.TemporaryDirectory() as folder, keep_programs_in(Path(folder) / "programs"):
        blocks = Path(folder) / "rows"
        write_random_blocks(blocks, run, {"train": size.loop_rows})
        config = build_step_config(case, "float32", data={"format": "blocks", "path": str(blocks)})
        config["data"]["reader_threads"] = threads
        config["training"] |= {"steps": steps, "checkpoint_every_steps": 2 * steps}
        clock = StepClock()
        train_run(build_run_config(config), f"{folder}/run", say=lambda text: None, listeners=[clock])
        bare = measure_bare_step(run, size)  # its program is the loop's, which was kept
    looped = clock.seconds / size.loop_steps
    return {
        "batch": case.batch,
        "steps": size.loop_steps,
        "loop_ms": round(looped * 1e3, 3),
        "bare_ms": round(bare * 1e3, 3),
        "loop_over_bare": round(looped / bare, 3),
        "loop_examples_per_second": round(case.batch / looped),
        "bare_examples_per_second": round(case.batch / bare),
    }


def measure_bare_step(run: Run, size: Size) -> float:
    """Returns the median seconds of the step on one batch, which lies on the device."""
    state, batch = run.init_state(), put_batch(draw_step_batch(run), run.mesh)
    step = run.jit_train_step().lower(state, batch).compile()

    def once() -> StepMetrics:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return float(np.median(time_calls(once, size.rounds, size.calls)))
