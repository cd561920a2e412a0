"""The loop over steps. It moves the state forward and tells its listeners, who do everything else between steps.

A listener hears when a run starts, before and after each step, at every log line and evaluation, and at the end.
Logging, evaluation, checkpoints, the profiler, the console, TensorBoard, the report and trackers all are listeners.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import Position
from wukong_jax.training.state import TrainState
from wukong_jax.training.step import StepMetrics

ALL_DONE = "all steps are done"  # the one reason to stop that asking for more steps takes back
CompiledStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


@dataclasses.dataclass(frozen=True)
class RunStart:
    """What a listener is told at the start of a run, or when it goes on."""

    name: str
    folder: Path
    config: Mapping[str, Any]  # as in config.json
    first_step: int  # steps that were taken before; 0 for a new run
    total_steps: int


class PlacedBatch(NamedTuple):
    """A batch on the devices."""

    columns: Batch
    rows: int  # of weight above 0
    position: Position  # of the data after this batch


class Listener:
    """Hears of a run. Each method does nothing; override those that matter.

    Listeners are told one after another, in the order in which they were given. What one of them raises ends the run.
    """

    def on_start(self, start: RunStart) -> None:
        """The run starts, or goes on from a checkpoint."""

    def on_message(self, text: str) -> None:
        """One line for a person to read."""

    def before_step(self, loop: "TrainLoop") -> None:
        """A step is about to be taken; `loop.step` were taken before it."""

    def after_step(self, loop: "TrainLoop", batch: PlacedBatch, metrics: StepMetrics) -> None:
        """A step was handed to the devices, which may still be at work on it; `loop.step` counts it."""

    def after_last_step(self, loop: "TrainLoop") -> None:
        """No further step will be taken, whether all went well or something was raised."""

    def on_log(self, line: Mapping[str, Any]) -> None:
        """A line of training metrics: `step`, `loss`, `examples_per_second` and so on, as in metrics.jsonl."""

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """A split was scored: `step`, `split` and its metrics; whether they are the best of the validation so far."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """The run has ended, and its summary is written."""

    def close(self) -> None:
        """Told once at the end, also after an error: files and connections are to be closed."""


class Listeners(Listener):
    """Several listeners as one: each is told in turn."""

    def __init__(self, members: Iterable[Listener] = ()):
        """Members may be added to `members` until the run starts."""
        self.members = list(members)

    def on_start(self, start: RunStart) -> None:
        """Tells all."""
        for member in self.members:
            member.on_start(start)

    def on_message(self, text: str) -> None:
        """Tells all."""
        for member in self.members:
            member.on_message(text)

    def before_step(self, loop: "TrainLoop") -> None:
        """Tells all."""
        for member in self.members:
            member.before_step(loop)

    def after_step(self, loop: "TrainLoop", batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Tells all."""
        for member in self.members:
            member.after_step(loop, batch, metrics)

    def after_last_step(self, loop: "TrainLoop") -> None:
        """Tells all."""
        for member in self.members:
            member.after_last_step(loop)

    def on_log(self, line: Mapping[str, Any]) -> None:
        """Tells all."""
        for member in self.members:
            member.on_log(line)

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Tells all."""
        for member in self.members:
            member.on_evaluation(line, best)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Tells all."""
        for member in self.members:
            member.on_end(summary)

    def close(self) -> None:
        """Tells all, the last first, also where one of them raises."""
        with contextlib.ExitStack() as stack:
            for member in self.members:
                stack.callback(member.close)


class TrainLoop:
    """A state and the number of its steps, moved forward until all steps are done or a listener wants to stop."""

    def __init__(self, state: TrainState, total_steps: int, listener: Listener, stopped_because: str = ""):
        """Takes no step yet.

        Args:
          state: to go on from.
          total_steps: of the whole run.
          listener: told of every step.
          stopped_because: why the run stopped before; empty: it has not, or may go on.
        """
        self.state = state
        self.step = int(state.step)
        self.total_steps = total_steps
        self.stopped_because = stopped_because
        self._listener = listener

    @property
    def at_last_step(self) -> bool:
        """Whether all steps are taken."""
        return self.step == self.total_steps

    def is_over(self) -> bool:
        """Whether no further step is to be taken; the reason is then in `stopped_because`."""
        if not self.stopped_because and self.step >= self.total_steps:
            self.stopped_because = ALL_DONE
        return bool(self.stopped_because)

    def run(self, train_step: CompiledStep, batches: Iterable[PlacedBatch]) -> None:
        """Takes steps until the run is over.

        Args:
          train_step: (state, batch) -> (state, metrics).
          batches: one or more; the next one is asked for when a step is on its way.
        """
        try:
            for batch in batches:
                self._listener.before_step(self)
                self.state, metrics = train_step(self.state, batch.columns)
                self.step += 1
                self._listener.after_step(self, batch, metrics)
                if self.is_over():
                    break
        finally:
            self._listener.after_last_step(self)
