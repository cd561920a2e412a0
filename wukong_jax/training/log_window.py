"""Accumulates the metrics and the time of the steps between two log lines."""

import dataclasses
import time
from typing import Any

import jax

from wukong_jax.training.step import StepMetrics

STEPS_IN_FLIGHT = 2  # number of steps the host may run ahead of the devices


class NotFiniteError(Exception):
    """The loss or a gradient of a step is NaN or infinite."""

    def __init__(self, steps_ago: int):
        """Stores the number of steps taken since that step."""
        super().__init__(f"not finite {steps_ago} steps ago")
        self.steps_ago = steps_ago


@dataclasses.dataclass(frozen=True)
class WindowSums:
    """Sums over the steps of a window."""

    loss_sum: float = 0.0
    weight_sum: float = 0.0
    examples: int = 0
    seconds: float = 0.0  # evaluation and saving excluded
    gradient_norm: float = 0.0  # of the last step
    learning_rate_factor: float = 0.0  # of the last step
    sequence_use: tuple[float, float] | None = None  # fill and places of the last step, see `length_parts.PartPlan`


class LogWindow:
    """Collects step metrics on the devices, and reads them only when drained."""

    def __init__(self) -> None:
        """Starts empty, with its clock running."""
        self._pending: list[StepMetrics] = []
        self._examples: list[Any] = []
        self._started = time.monotonic()

    def restart_clock(self) -> None:
        """Excludes the time since the last drain, which was not spent on steps."""
        self._started = time.monotonic()

    def add(self, metrics: StepMetrics, examples: int | jax.Array) -> None:
        """Adds a step just dispatched, and waits for an older one so that the host does not get far ahead."""
        self._pending.append(metrics)
        self._examples.append(examples)
        if len(self._pending) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self._pending[-1 - STEPS_IN_FLIGHT]["loss_sum"])

    def drain(self) -> WindowSums:
        """Waits for all steps, returns their sums and starts a new window.

        Raises:
          NotFiniteError: the loss or a gradient of a step is NaN or infinite.
        """
        pending = jax.device_get(self._pending)
        seconds = time.monotonic() - self._started
        for index, metrics in enumerate(pending):
            if not metrics["finite"]:
                raise NotFiniteError(len(pending) - 1 - index)
        sums = WindowSums(
            loss_sum=sum(float(m["loss_sum"]) for m in pending),
            weight_sum=sum(float(m["weight_sum"]) for m in pending),
            examples=sum(map(int, self._examples)),
            seconds=seconds if pending else 0.0,
            gradient_norm=float(pending[-1]["gradient_norm"]) if pending else 0.0,
            learning_rate_factor=float(pending[-1]["learning_rate_factor"]) if pending else 0.0,
        )
        if pending and "sequence_fill" in pending[-1]:
            use = float(pending[-1]["sequence_fill"]), float(pending[-1]["sequence_places"])
            sums = dataclasses.replace(sums, sequence_use=use)
        self._pending, self._examples = [], []
        self.restart_clock()
        return sums
