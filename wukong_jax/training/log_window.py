"""The steps between two log lines: their sums, and the time the devices took for them."""

import dataclasses
import time

import jax

from wukong_jax.training.step import StepMetrics

STEPS_IN_FLIGHT = 2  # steps the host may run ahead of the devices


class NotFiniteError(Exception):
    """A loss or gradient of a step is NaN or infinite."""

    def __init__(self, steps_ago: int):
        """Says how many steps before the newest it was."""
        super().__init__(f"not finite {steps_ago} steps ago")
        self.steps_ago = steps_ago


@dataclasses.dataclass(frozen=True)
class WindowSums:
    """What a drained window amounts to."""

    loss_sum: float = 0.0
    weight_sum: float = 0.0
    examples: int = 0
    seconds: float = 0.0  # evaluation and saving excluded
    gradient_norm: float = 0.0  # of the last step
    learning_rate_factor: float = 0.0  # of the last step


class LogWindow:
    """Collects step metrics as they are, on devices, and reads them only when asked."""

    def __init__(self) -> None:
        """Starts empty, its clock running."""
        self._pending: list[StepMetrics] = []
        self._examples = 0
        self._started = time.monotonic()

    def restart_clock(self) -> None:
        """Leaves out the time since the last drain, which went to something else than steps."""
        self._started = time.monotonic()

    def add(self, metrics: StepMetrics, examples: int) -> None:
        """Adds a step just dispatched, and waits for an older one so that the host does not run far ahead."""
        self._pending.append(metrics)
        self._examples += examples
        if len(self._pending) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self._pending[-1 - STEPS_IN_FLIGHT]["loss_sum"])

    def drain(self) -> WindowSums:
        """Waits for all steps and returns their sums; the window starts anew.

        Raises:
          NotFiniteError: a step's loss or gradient is NaN or infinite.
        """
        pending = jax.device_get(self._pending)
        seconds = time.monotonic() - self._started
        for index, metrics in enumerate(pending):
            if not metrics["finite"]:
                raise NotFiniteError(len(pending) - 1 - index)
        sums = WindowSums(
            loss_sum=sum(float(m["loss_sum"]) for m in pending),
            weight_sum=sum(float(m["weight_sum"]) for m in pending),
            examples=self._examples,
            seconds=seconds if pending else 0.0,
            gradient_norm=float(pending[-1]["gradient_norm"]) if pending else 0.0,
            learning_rate_factor=float(pending[-1]["learning_rate_factor"]) if pending else 0.0,
        )
        self._pending, self._examples = [], 0
        self.restart_clock()
        return sums
