"""Compares whole training from row blocks, with evaluations and checkpoints, with the bare train step.

A run is trained as `wukong-jax train` does it. A listener waits for the devices once in `WINDOW` steps and at
checkpoints, and so times windows: plain ones, those with an evaluation, and those with a checkpoint. After each window
it takes a few bare steps on one batch, so that other load of the machine affects both equally.

The first evaluation and the first checkpoint are not counted: they compile. What an evaluation has to do is counted as
its forward passes, at the bare speed; reading its rows, the metrics and saving the best state are the loop's cost.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from wukong_jax.bench.growth import Sizes, build_sized_run, describe_config
from wukong_jax.bench.random_blocks import write_random_blocks
from wukong_jax.bench.train_step import draw_batch
from wukong_jax.config import RunConfig, build_run_config
from wukong_jax.runs.evaluation import build_predict, put_batch
from wukong_jax.runs.train_run import say_nothing, train_run
from wukong_jax.training.loop import Listener, PlacedBatch, TrainLoop
from wukong_jax.training.step import StepMetrics

WINDOW = 20
BARE_STEPS, BARE_PASSES = 8, 5


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """What is trained."""

    sizes: Sizes
    steps: int
    evaluate_every: int
    checkpoint_every: int
    train_rows: int
    validation_rows: int
    evaluation_batch: int = 8192

    @property
    def evaluation_batches(self) -> int:
        """Forward passes of an evaluation."""
        return -(-self.validation_rows // self.evaluation_batch)

    @property
    def counted_from(self) -> int:
        """The step of the first evaluation or checkpoint, whichever is later; the first of each compiles."""
        return max(self.evaluate_every, self.checkpoint_every)

    def build_config(self, data: Path) -> RunConfig:
        """Builds the run's config, which reads the row blocks in a folder."""
        mapping = describe_config(self.sizes)
        mapping["data"] = {"factory": "blocks", "path": str(data)}
        mapping["training"] |= {
            "steps": self.steps,
            "evaluate_every_steps": self.evaluate_every,
            "checkpoint_every_steps": self.checkpoint_every,
            "evaluation_batch_size": self.evaluation_batch,
        }
        return build_run_config(mapping)


@dataclasses.dataclass(frozen=True)
class Window:
    """`WINDOW` steps of a run."""

    last_step: int
    seconds: float
    bare_step: float  # seconds of a bare step right after it
    evaluated: bool
    saved: bool  # a checkpoint of `checkpoint_every_steps`


class WindowClock(Listener):
    """Times windows of `WINDOW` steps, which end in the middle between two multiples of it, and the loop's waits.

    A wait is the time at a checkpoint from the end of its step to the start of the next one.
    """

    def __init__(self, checkpoint_every: int, time_bare_step: Callable[[], float]):
        """Starts without windows; `time_bare_step` returns the seconds of a bare step."""
        self.windows: list[Window] = []
        self.waits: dict[int, float] = {}  # seconds by the step of the checkpoint
        self._checkpoint_every, self._time_bare_step = checkpoint_every, time_bare_step
        self._evaluated = False
        self._started: float | None = None

    def before_step(self, loop: TrainLoop) -> None:
        """Ends a window if due; here, what follows the last step is over."""
        if loop.step in self.waits:
            self.waits[loop.step] = time.perf_counter() - self.waits[loop.step]
        if loop.step % WINDOW != WINDOW // 2:
            return
        jax.block_until_ready(loop.state)
        seconds = None if self._started is None else time.perf_counter() - self._started
        bare_step = self._time_bare_step()
        if seconds is not None:
            saved = loop.step // self._checkpoint_every > (loop.step - WINDOW) // self._checkpoint_every
            self.windows.append(Window(loop.step, seconds, bare_step, self._evaluated, saved))
        self._started, self._evaluated = time.perf_counter(), False

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Starts a wait if a checkpoint is due; listeners of a user are called before those that evaluate and save."""
        if loop.step % self._checkpoint_every == 0 and not loop.at_last_step:
            jax.block_until_ready(loop.state)
            self.waits[loop.step] = time.perf_counter()

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Notes that the window has an evaluation."""
        self._evaluated = True


class MemoryMeter(Listener):
    """Reads the memory of the process at some steps."""

    def __init__(self, steps: Sequence[int]):
        """Will read after each of these steps."""
        self.resident_bytes: dict[int, int] = {}
        self._steps = frozenset(steps)

    def before_step(self, loop: TrainLoop) -> None:
        """Reads if due."""
        if loop.step in self._steps:
            self.resident_bytes[loop.step] = read_resident_bytes()


def read_resident_bytes() -> int:
    """Returns the bytes of this process that are in memory (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no line VmRSS")


class BareSteps:
    """The train step and the forward pass of a plan, on one batch each that stays on the devices."""

    def __init__(self, plan: LoopPlan):
        """Builds and compiles both."""
        run = build_sized_run(plan.sizes)
        self._state = run.init_state()
        self._batch = put_batch(draw_batch(run, plan.sizes.batch), run.mesh)
        self._evaluated = put_batch(draw_batch(run, plan.evaluation_batch), run.mesh)
        self._step = run.jit_train_step().lower(self._state, self._batch).compile()
        self._run = run

    def time_steps(self, steps: int) -> float:
        """Returns the seconds of a step; only the last is waited for."""
        start = time.perf_counter()
        for _ in range(steps):
            self._state, _ = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - start) / steps

    def time_passes(self, passes: int) -> float:
        """Returns the seconds of a forward pass over a batch of the evaluation."""
        predict = build_predict(self._run, self._state)
        start = time.perf_counter()
        jax.block_until_ready([predict(self._evaluated) for _ in range(passes)])
        return (time.perf_counter() - start) / passes


def measure_loop(folder: Path, plan: LoopPlan, rounds: int) -> dict[str, Any]:
    """Trains the plan several times, its windows in turns with bare steps.

    Args:
      folder: an empty folder for rows and runs.
      plan: what is trained.
      rounds: number of runs.

    Returns:
      The row of results, see `summarise_loop`.
    """
    write_rows(folder / "data", plan)
    bare = BareSteps(plan)
    bare.time_steps(BARE_STEPS)
    bare.time_passes(2)
    passes, runs, waits = [bare.time_passes(BARE_PASSES)], [], []
    for turn in range(rounds):
        clock = WindowClock(plan.checkpoint_every, functools.partial(bare.time_steps, BARE_STEPS))
        train_run(plan.build_config(folder / "data"), str(folder / f"run_{turn}"), say_nothing, [clock])
        runs.append(clock.windows)
        waits += [wait for step, wait in clock.waits.items() if step > plan.counted_from and step % plan.evaluate_every]
        passes.append(bare.time_passes(BARE_PASSES))
    return summarise_loop(plan, runs, passes, waits)


def summarise_loop(
    plan: LoopPlan, runs: Sequence[Sequence[Window]], bare_passes: Sequence[float], waits: Sequence[float]
) -> dict[str, Any]:
    """Summarises windows of runs, and bare passes and waits at checkpoints in seconds, in one row.

    Returns:
      Medians of a step in the bare turns and in plain windows; the slowdowns in percent of plain windows (the median
      over them) and of all windows together, less the forward passes of the evaluations and with them; the time of an
      evaluation with its own work; and in units of a step, how long the loop waits for a checkpoint
      (`checkpoint_wait_steps`), and how much longer its window takes (`checkpoint_cost_steps`), since writing goes on
      beside the next steps.
    """
    windows = [w for run in runs for w in run if w.last_step - WINDOW > plan.counted_from]
    forward = statistics.median(bare_passes) * plan.evaluation_batches
    plain_windows = [w for w in windows if not (w.evaluated or w.saved)]
    plain = statistics.median(w.seconds for w in plain_windows) / WINDOW
    costs = [w.seconds / plain - WINDOW for w in windows if w.saved and not w.evaluated]
    evaluations = [w.seconds - WINDOW * plain for w in windows if w.evaluated and not w.saved]
    total, bare = sum(w.seconds for w in windows), WINDOW * sum(w.bare_step for w in windows)
    own_work = forward * sum(w.evaluated for w in windows)
    return {
        "case": "loop",
        "runs": len(runs),
        **dataclasses.asdict(plan.sizes),
        **{name: getattr(plan, name) for name in ("steps", "evaluate_every", "checkpoint_every", "validation_rows")},
        "windows": len(windows),
        "bare_step_ms": _milliseconds(statistics.median(w.bare_step for w in windows)),
        "plain_step_ms": _milliseconds(plain),
        "plain_slowdown_percent": _percent(statistics.median(w.seconds / w.bare_step for w in plain_windows) / WINDOW),
        "loop_slowdown_percent": _percent((total - own_work) / bare),
        "slowdown_with_evaluation_work_percent": _percent(total / bare),
        "forward_passes_ms": _milliseconds(forward),
        "evaluation_ms": _milliseconds(statistics.median(evaluations)) if evaluations else None,
        "checkpoint_wait_steps": round(statistics.median(waits) / plain, 2) if waits else None,
        "checkpoint_wait_steps_values": [round(wait / plain, 2) for wait in waits],
        "checkpoint_cost_steps": round(statistics.median(costs), 2) if costs else None,
        "checkpoint_cost_steps_values": [round(cost, 2) for cost in costs],
    }


def measure_memory(folder: Path, plan: LoopPlan, at_steps: Sequence[int]) -> dict[str, Any]:
    """Trains a plan once and reads the memory of the process at some steps.

    Args:
      folder: an empty folder for rows and the run.
      plan: what is trained.
      at_steps: steps, ascending, below the plan's.

    Returns:
      The row of results.
    """
    write_rows(folder / "data", plan)
    meter = MemoryMeter(at_steps)
    train_run(plan.build_config(folder / "data"), str(folder / "run"), say_nothing, [meter])
    found = meter.resident_bytes
    return {
        "case": "memory",
        **dataclasses.asdict(plan.sizes),
        **{name: getattr(plan, name) for name in ("steps", "evaluate_every", "checkpoint_every", "validation_rows")},
        "at_steps": list(found),
        "resident_mb": [round(bytes_ / 1e6, 1) for bytes_ in found.values()],
        "growth_mb": round((found[at_steps[-1]] - found[at_steps[0]]) / 1e6, 1),
    }


def write_rows(folder: Path, plan: LoopPlan) -> None:
    """Writes the plan's training and validation rows as blocks."""
    rows = {"train": plan.train_rows, "validation": plan.validation_rows}
    write_random_blocks(folder, build_sized_run(plan.sizes), rows)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _percent(ratio: float) -> float:
    return round(100 * (ratio - 1), 1)
