"""Writes TensorBoard events, and defines the names of scalars used by TensorBoard and the trackers."""

import math
from collections.abc import Mapping
from typing import Any

from tensorboardX import SummaryWriter

from wukong_jax.runs.folder import RunFolder
from wukong_jax.training.loop import Listener, RunStart

# Training metrics about speed, shown under perf/.
_SPEED = ("examples_per_second",)


def name_scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a metrics line as `train/loss`, `perf/examples_per_second`, `eval/validation/auc` etc.

    Metrics that are not defined on the rows (NaN) are left out.
    """
    prefix = "train" if line["split"] == "train" else f"eval/{line['split']}"
    return {
        f"{'perf' if name in _SPEED else prefix}/{name}": value
        for name, value in line.items()
        if isinstance(value, int | float) and math.isfinite(value) and name not in ("step", "split", "scored_step")
    }


class TensorBoardWriter(Listener):
    """Writes events into `<workdir>/tensorboard`."""

    def __init__(self) -> None:
        """Opens nothing until the run starts."""
        self._writer: SummaryWriter | None = None

    def on_start(self, start: RunStart) -> None:
        """Opens the event file, and discards earlier events after the run's first step."""
        self._writer = SummaryWriter(str(RunFolder(start.folder).tensorboard), purge_step=start.first_step + 1)

    def on_log(self, line: Mapping[str, Any]) -> None:
        """Writes a line's numbers."""
        if self._writer is None:
            return
        for name, value in name_scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def on_evaluation(self, line: Mapping[str, Any], best: bool) -> None:
        """Writes a line's numbers."""
        self.on_log(line)

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
