"""Provides the training loop and its listener interface.

The loop only advances the state; everything else between steps is done by listeners. They are notified when a run
starts, before and after each step, at every log line and evaluation, and at the end. Logging, evaluation, checkpoints,
the profiler, the console, TensorBoard, the report and trackers are all listeners.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import Position
from wukong_jax.training.bag_places import BagUse
from wukong_jax.training.state import TrainState
from wukong_jax.training.step import StepMetrics

ALL_DONE = "all steps are done"  # the only reason to stop that a config with more steps cancels
CompiledStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


@dataclasses.dataclass(frozen=True)
class RunStart:
    """Passed to listeners when a run starts or resumes."""

    name: str
    folder: Path
    config: Mapping[str, Any]  # as in config.json
    first_step: int  # steps taken before; 0 for a new run
    total_steps: int
    place: str = ""  # the folder as the user named it, perhaps a URL


class PlacedBatch(NamedTuple):
    """A batch on the devices."""

    columns: Batch
    rows: Any  # of weight above 0; an int, or [] int32 summed over all processes
    position: Position  # position in the data after this batch
    signal: Any = 0  # [] int32, number of the stop signal that a process had received before this batch; 0: none
    bags: BagUse = BagUse()


class Listener:
    """Receives the events of a run. Every method does nothing by default; override the ones you need.

    Listeners are called in the order in which they were given. An exception in a listener ends the run.
    """

    def on_start(self, start: RunStart) -> None:
        """Called when the run starts or resumes from a checkpoint."""

    def on_message(self, text: str) -> None:
        """Called with a one-line message for the user."""

    def before_step(self, loop: "TrainLoop") -> None:
        """Called before a step, when `loop.step` steps have been taken."""

    def after_step(self, loop: "TrainLoop", batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Called after a step was dispatched; it may still be running. `loop.step` includes it."""

    def after_last_step(self, loop: "TrainLoop") -> None:
        """Called after the last step, also if an exception was raised."""

    def on_log(self, line: Mapping[str, Any]) -> None:
        """Called with a line of training metrics: `step`, `loss`, `examples_per_second` etc., as in metrics.jsonl."""

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Called with `step`, `split` and metrics of an evaluation; `best`: it is the best validation so far."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Called when the run has ended and its summary is written."""

    def close(self) -> None:
        """Called once at the end, also after an error, to close files and connections."""


class Listeners(Listener):
    """Combines several listeners into one that calls each in turn."""

    def __init__(self, members: Iterable[Listener] = ()):
        """Stores the listeners; more may be added to `members`."""
        self.members = list(members)

    def on_start(self, start: RunStart) -> None:
        """Calls all members."""
        for member in self.members:
            member.on_start(start)

    def on_message(self, text: str) -> None:
        """Calls all members."""
        for member in self.members:
            member.on_message(text)

    def before_step(self, loop: "TrainLoop") -> None:
        """Calls all members."""
        for member in self.members:
            member.before_step(loop)

    def after_step(self, loop: "TrainLoop", batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Calls all members."""
        for member in self.members:
            member.after_step(loop, batch, metrics)

    def after_last_step(self, loop: "TrainLoop") -> None:
        """Calls all members."""
        for member in self.members:
            member.after_last_step(loop)

    def on_log(self, line: Mapping[str, Any]) -> None:
        """Calls all members."""
        for member in self.members:
            member.on_log(line)

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Calls all members."""
        for member in self.members:
            member.on_evaluation(line, best)

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Calls all members."""
        for member in self.members:
            member.on_end(summary)

    def close(self) -> None:
        """Closes all members in reverse order, also if one of them raises."""
        with contextlib.ExitStack() as stack:
            for member in self.members:
                stack.callback(member.close)


class TrainLoop:
    """Advances a state until all steps are done or a listener sets `stopped_because`."""

    def __init__(self, state: TrainState, total_steps: int, listener: Listener, stopped_because: str = ""):
        """Prepares the loop; takes no step yet.

        Args:
          state: state to start from.
          total_steps: number of steps of the whole run.
          listener: listener called before and after every step.
          stopped_because: why the run stopped earlier; empty if it did not stop or may continue.
        """
        self.state = state
        self.step = int(state.step)
        self.total_steps = total_steps
        self.stopped_because = stopped_because
        self._listener = listener

    @property
    def at_last_step(self) -> bool:
        """Whether all steps have been taken."""
        return self.step == self.total_steps

    def is_over(self) -> bool:
        """Returns whether the run has ended; `stopped_because` then holds the reason."""
        if not self.stopped_because and self.step >= self.total_steps:
            self.stopped_because = ALL_DONE
        return bool(self.stopped_because)

    def run(self, train_step: CompiledStep, batches: Iterable[PlacedBatch]) -> None:
        """Takes steps until the run is over.

        Args:
          train_step: compiled function (state, batch) -> (state, metrics).
          batches: at least one batch; each is requested after the previous step was dispatched.
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
