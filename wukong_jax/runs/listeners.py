"""Provides the training loop's listeners that count, log, write metrics, evaluate, save checkpoints and profile."""

import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.evaluation import evaluate_state
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.progress import RunProgress, record_evaluation
from wukong_jax.runs.rows import RunData
from wukong_jax.runs.stop_votes import StopVotes
from wukong_jax.runs.summary_notes import describe_scored_step
from wukong_jax.sharding.mesh import place_copies
from wukong_jax.sharding.team import find_team
from wukong_jax.training.log_window import LogWindow, WindowSums
from wukong_jax.training.loop import Listener, PlacedBatch, TrainLoop
from wukong_jax.training.run import Run
from wukong_jax.training.step import StepMetrics


class ProgressMeter(Listener):
    """Counts the rows, losses and seconds of the steps; other listeners read `progress` and may replace it."""

    def __init__(self, progress: RunProgress, started: float):
        """Continues from `progress`; `started` is the `time.monotonic()` at which this process began the run."""
        self.progress = progress
        self._earlier_seconds, self._started = progress.wall_seconds, started
        self._window = LogWindow()

    def restart_clock(self) -> None:
        """Excludes the time since the last drain, which was not spent on steps."""
        self._window.restart_clock()

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Counts a step."""
        self._window.add(metrics, batch.rows)
        self.progress = self.progress.replace(
            epoch=batch.position.epoch,
            rows_consumed=batch.position.rows_consumed,
        )

    def drain(self) -> WindowSums:
        """Waits for the pending steps and adds them to the progress.

        Raises:
          NotFiniteError: the loss or a gradient of a step is NaN or infinite.
        """
        sums = self._window.drain()
        self.progress = self.progress.replace(
            window_loss_sum=self.progress.window_loss_sum + sums.loss_sum,
            window_weight_sum=self.progress.window_weight_sum + sums.weight_sum,
            train_seconds=self.progress.train_seconds + sums.seconds,
            examples_seen=self.progress.examples_seen + sums.examples,
            timed_examples=self.progress.timed_examples + sums.examples,
            wall_seconds=self._earlier_seconds + time.monotonic() - self._started,
        )
        return sums


class MetricsWriter(Listener):
    """Appends every log line and evaluation to `metrics.jsonl`."""

    def __init__(self, folder: RunFolder):
        """Stores the folder; writes nothing yet."""
        self._folder = folder

    def on_log(self, line: Mapping[str, Any]) -> None:
        """Appends the line."""
        self._folder.append_metrics(line)

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Appends the line."""
        self._folder.append_metrics(line)


class StepLog(Listener):
    """Reports loss and speed to a listener every `log_every_steps` steps and after the last step."""

    def __init__(self, run: Run, meter: ProgressMeter, listener: Listener):
        """Reads from `meter` and reports to `listener`."""
        self._every = run.config.training.log_every_steps
        self._learning_rate = run.config.optimizer.learning_rate
        self._meter, self._listener = meter, listener

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Logs if due."""
        if loop.step % self._every and not loop.at_last_step:
            return
        sums = self._meter.drain()
        progress = self._meter.progress
        line = {
            "step": loop.step,
            "split": "train",
            "epoch": progress.epoch,
            "examples_seen": progress.examples_seen,
            "loss": progress.window_loss_sum / max(progress.window_weight_sum, 1e-9),
            "learning_rate": sums.learning_rate_factor * self._learning_rate,
            "gradient_norm": sums.gradient_norm,
            "examples_per_second": sums.examples / max(sums.seconds, 1e-9),
        }
        if batch.bags.places:
            line["bag_fill"] = round(batch.bags.used / batch.bags.places, 4)  # of this step, like the gradient's norm
            line["bag_places"] = round(batch.bags.places / batch.bags.slots, 4)
        if sums.sequence_use is not None:
            line["sequence_fill"], line["sequence_places"] = (round(share, 4) for share in sums.sequence_use)
        self._meter.progress = progress.replace(window_loss_sum=0.0, window_weight_sum=0.0)
        self._listener.on_log(line)


class Validation(Listener):
    """Evaluates the validation split, saves the best state, and lowers the learning rate or stops when it stalls."""

    def __init__(self, run: Run, data: RunData, meter: ProgressMeter, checkpoints: Checkpoints, listener: Listener):
        """Reports each evaluation to `listener`; without validation rows, nothing is done."""
        self._run, self._data, self._config = run, data, run.config.training
        self._meter, self._checkpoints, self._listener = meter, checkpoints, listener

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Evaluates if due: every `evaluate_every_steps` (if 0, after each epoch), and after the last step."""
        every, epoch_ended = self._config.evaluate_every_steps, batch.position.rows_consumed == 0
        due = loop.at_last_step or (loop.step % every == 0 if every else epoch_ended)
        if "validation" in self._data.splits and due:
            self._evaluate(loop)

    def _evaluate(self, loop: TrainLoop) -> None:
        meter = self._meter
        meter.drain()
        evaluation = evaluate_state(self._run, self._data, loop.state, "validation")
        # The lead's, because metrics may differ in the last digit between kinds of hosts.
        metrics = find_team().tell("validation", evaluation.metrics)
        meter.progress, best = record_evaluation(meter.progress, self._config, loop.step, metrics)
        self._listener.on_evaluation({"step": loop.step, "split": "validation", **evaluation.metrics}, best)
        if meter.progress.stopped_because and not loop.stopped_because:
            self._listener.on_message(self._describe_stop(loop.step))
        loop.stopped_because = meter.progress.stopped_because
        if best:
            self._checkpoints.save(loop.state, meter.progress, "best")
        scale = place_copies(self._run.mesh, np.float32(meter.progress.learning_rate_scale))
        loop.state = loop.state.replace(learning_rate_scale=scale)
        meter.restart_clock()

    def _describe_stop(self, step: int) -> str:
        progress, patience = self._meter.progress, self._config.early_stop_patience
        return (
            f"stopped early at step {step:,}: {progress.stopped_because} (config.training.early_stop_patience = "
            f"{patience}); {describe_scored_step(progress.best_step, step)}"
        )


class CheckpointKeeper(Listener):
    """Saves a checkpoint every `every` steps; on a stop signal to any process, saves one and ends all processes."""

    def __init__(
        self, checkpoints: Checkpoints, every: int, meter: ProgressMeter, votes: StopVotes, listener: Listener
    ):
        """Stores its parts; saves nothing yet."""
        self._checkpoints, self._every, self._meter = checkpoints, every, meter
        self._votes, self._listener = votes, listener

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Saves if due.

        Raises:
          SystemExit: a stop signal was received; the state has been saved.
        """
        number = self._votes.count(batch)
        if number:
            self.save(loop)
            self._checkpoints.wait()
            name = signal.Signals(number).name
            self._listener.on_message(f"{name}: saved step {loop.step:,}; run the same command again to resume")
            find_team().ends_together = True
            raise SystemExit(128 + number)
        if loop.step % self._every == 0:
            self.save(loop)

    def save(self, loop: TrainLoop) -> None:
        """Starts saving the current state."""
        self._meter.drain()
        self._checkpoints.save(loop.state, self._meter.progress)
        self._meter.restart_clock()


class TeamMarks(Listener):
    """Tells the other processes of a training which step this one takes."""

    def before_step(self, loop: TrainLoop) -> None:
        """Tells it."""
        find_team().mark(f"training step {loop.step + 1}")


class Profiler(Listener):
    """Writes a profiler trace of a few steps into the TensorBoard folder."""

    def __init__(self, first_step: int, steps: int, folder: Path, listener: Listener):
        """Will trace `steps` steps (0: none) after the first `first_step` steps."""
        self._first, self._steps, self._folder, self._listener = first_step, steps, folder, listener
        self._tracing = False

    def before_step(self, loop: TrainLoop) -> None:
        """Starts or stops the trace if due."""
        if self._steps and loop.step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        if loop.step == self._first + self._steps:
            self.after_last_step(loop)

    def after_last_step(self, loop: TrainLoop) -> None:
        """Stops the trace if one is running."""
        if self._tracing:
            jax.block_until_ready(loop.state.step)
            jax.profiler.stop_trace()
            self._tracing = False
            self._listener.on_message(f"wrote a profile to {self._folder}")
