"""Compiles a run's train step: once, or once for each share of bags that its batches need."""

import time
from typing import Any

from wukong_jax.data.blocks.batch import BagShare, Batch
from wukong_jax.runs.listeners import ProgressMeter
from wukong_jax.training.loop import Listener
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState
from wukong_jax.training.step import StepMetrics


class CompiledSteps:
    """The train step, compiled when a batch first needs it.

    There is at most one program for each of `flat_bags.SHARES`, and one for padded bags.
    """

    def __init__(self, run: Run, meter: ProgressMeter, listener: Listener):
        """Compiles nothing yet; compilation is reported to `listener` and excluded from the speed of `meter`."""
        self._run, self._meter, self._listener = run, meter, listener
        self._programs: dict[BagShare | None, Any] = {}

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        """Takes a step."""
        if batch.bag_share not in self._programs:
            self.compile(state, batch)
        return self._programs[batch.bag_share](state, batch)

    def compile(self, state: TrainState, batch: Batch) -> None:
        """Compiles the step for batches like this one."""
        share, began = batch.bag_share, time.monotonic()
        self._meter.drain()
        self._programs[share] = self._run.jit_train_step().lower(state, batch).compile()
        places = "" if share is None else f", with places for {share.of_slots:.1%} of the slots of bags"
        self._listener.on_message(f"compiled the train step{places} in {time.monotonic() - began:.1f} s")
        self._meter.restart_clock()
