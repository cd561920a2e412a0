"""Shows the progress of training: a progress bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wukong_jax.metrics.metric_names import format_metric
from wukong_jax.training.loop import Listener, PlacedBatch, RunStart, TrainLoop
from wukong_jax.training.step import StepMetrics


def print_to_stderr(text: str) -> None:
    """Prints a line to stderr, where it does not mix with a result."""
    print(text, file=sys.stderr, flush=True)


class TrainingConsole(Listener):
    """A progress bar with loss, examples/s and time left on a terminal, plain lines elsewhere. Writes to stderr."""

    def __init__(self) -> None:
        """Shows nothing until the run starts."""
        self._total = 0
        self._bar: Progress | None = None

    def on_start(self, start: RunStart) -> None:
        """Starts the bar at the run's first step."""
        self._total = start.total_steps
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("step {task.completed:,}/{task.total:,}"),
                BarColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=RichConsole(stderr=True),
            )
            self._task = self._bar.add_task(
                "train", total=start.total_steps, completed=start.first_step, detail="compiling"
            )
            self._bar.start()

    def on_message(self, text: str) -> None:
        """Prints one line above the bar."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print_to_stderr(text)

    def after_step(self, loop: TrainLoop, batch: PlacedBatch, metrics: StepMetrics) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, completed=loop.step)

    def on_log(self, line: Mapping[str, Any]) -> None:
        """Shows loss and speed."""
        detail = f"loss {line['loss']:.5f}  {line['examples_per_second']:,.0f} examples/s"
        if self._bar:
            self._bar.update(self._task, completed=line["step"], detail=detail)
        else:
            self.on_message(f"step {line['step']:,}/{self._total:,}  epoch {line['epoch']}  {detail}")

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Shows the main metrics."""
        names = [name for name in ("auc", "log_loss", "normalized_entropy") if name in line]
        shown = "  ".join(f"{name} {format_metric(line[name])}" for name in names)
        of = f" (state of step {line['scored_step']:,})" if "scored_step" in line else ""
        self.on_message(f"step {line['step']:,}  {line['split']}{of}  {shown}{'  (best so far)' if best else ''}")

    def close(self) -> None:
        """Stops the bar."""
        if self._bar:
            self._bar.stop()
