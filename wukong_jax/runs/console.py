"""What a person sees while a run trains, and the TensorBoard events beside it."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

# Names of the train metrics that are about speed, not quality: TensorBoard shows them under perf/.
_SPEED = ("examples_per_second",)


class TrainingConsole:
    """A bar with loss, examples/s and time left on a terminal; plain lines elsewhere. Writes to stderr."""

    def __init__(self, total_steps: int, first_step: int, tensorboard: Path):
        """Starts showing; `first_step` > 0 continues the bar and cuts TensorBoard back to it."""
        self._total = total_steps
        self._writer = SummaryWriter(str(tensorboard), purge_step=first_step + 1)
        self._bar: Progress | None = None
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
            self._task = self._bar.add_task("train", total=total_steps, completed=first_step, detail="compiling")
        self._started = time.monotonic()

    def __enter__(self) -> "TrainingConsole":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        self._writer.close()

    def say(self, text: str) -> None:
        """Prints one line above the bar."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def show_train(self, line: Mapping[str, Any]) -> None:
        """Shows a train metrics line."""
        detail = f"loss {line['loss']:.5f}  {line['examples_per_second']:,.0f} examples/s"
        if self._bar:
            self._bar.update(self._task, completed=line["step"], detail=detail)
        else:
            self.say(f"step {line['step']:,}/{self._total:,}  epoch {line['epoch']}  {detail}")
        self._write(line)

    def show_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Shows an evaluation's metrics line."""
        named = {name: line.get(name) for name in ("auc", "log_loss", "normalized_entropy")}
        shown = "  ".join(f"{name} {value:.6f}" for name, value in named.items() if value is not None)
        self.say(f"step {line['step']:,}  {line['split']}  {shown}{'  (best so far)' if best else ''}")
        self._write(line)

    def _write(self, line: Mapping[str, Any]) -> None:
        prefix = "train" if line["split"] == "train" else f"eval/{line['split']}"
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "split"):
                self._writer.add_scalar(f"{'perf' if name in _SPEED else prefix}/{name}", value, line["step"])
        self._writer.flush()
