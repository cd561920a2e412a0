"""Times the train step on bags with a long tail of lengths: padded to the longest, and laid flat by their lengths."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wukong_jax.bench.growth import Row, Sizes, build_sized_run
from wukong_jax.bench.train_step import draw_batch
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.training.run import Run
from wukong_jax.training.step import StepMetrics

ZIPF = 1.2  # exponent of the lengths' distribution, from 1 to the longest
CASES = ((1, 200), (2, 200), (4, 50), (26, 16))  # (bag columns, longest bag)


def measure_bag_lengths(base: Sizes, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Times both forms of each case in turns.

    Args:
      base: sizes of the run, without those of bags.
      rounds: timed steps of each form.
      say: prints a line.

    Returns:
      A row per case.
    """
    rows = []
    for fields, longest in CASES:
        run = build_sized_run(dataclasses.replace(base, fields=fields, bag=longest))
        rows.append(compare_forms(run, draw_tail(run, base.batch), rounds))
        say(format_comparison(rows[-1]))
    return rows


def draw_tail(run: Run, batch: int) -> Batch:
    """Draws a batch whose bags have Zipf-distributed lengths from 1 up to their longest."""
    drawn, random = draw_batch(run, batch), np.random.default_rng(1)
    ids = drawn.ids.copy()
    for field in run.layout.fields:
        weights = 1 / np.arange(1, field.length + 1) ** ZIPF
        lengths = random.choice(np.arange(1, field.length + 1), batch, p=weights / weights.sum())
        ids[:, slice(*field.slots)][np.arange(field.length) >= lengths[:, None]] = -1
    return drawn._replace(ids=ids)


def compare_forms(run: Run, batch: Batch, rounds: int) -> Row:
    """Times the step with padded bags and with bags laid flat, in turns."""
    started = time.perf_counter()
    fitted, use = run.fit_bags(batch)
    host_seconds = time.perf_counter() - started
    forms = [TimedForm(run, own) for own in (batch, fitted)]
    for _ in range(2 + rounds):
        for form in forms:
            form.take_step()
    padded, flat = (float(np.median(form.seconds[2:])) for form in forms)
    return {
        "sweep": "lengths",
        "columns": len(run.layout.fields),
        "longest": run.layout.fields[0].length,
        "mean_length": round(use.used * run.layout.fields[0].length / use.slots, 2),
        "fill_padded": round(use.used / use.slots, 4),
        "places": round(use.places / use.slots, 4),
        "fill": round(use.used / use.places, 4),
        "padded_ms": round(padded * 1e3, 2),
        "by_length_ms": round(flat * 1e3, 2),
        "ratio": round(padded / flat, 3),
        "padded_temporary_bytes": forms[0].temporary_bytes,
        "by_length_temporary_bytes": forms[1].temporary_bytes,
        "host_ms": round(host_seconds * 1e3, 2),
        "timed_steps": rounds,
    }


class TimedForm:
    """A compiled step on one batch, with its times."""

    def __init__(self, run: Run, batch: Batch):
        """Compiles the step; takes none yet."""
        self._state, self._batch = run.init_state(), put_batch(batch, run.mesh)
        start = time.perf_counter()
        self._step: Any = run.jit_train_step().lower(self._state, self._batch).compile()
        self.compile_seconds = time.perf_counter() - start
        self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes
        self.seconds: list[float] = []
        self.metrics: StepMetrics = {}

    def take_step(self) -> None:
        """Takes a step and notes its time and metrics."""
        start = time.perf_counter()
        self._state, self.metrics = jax.block_until_ready(self._step(self._state, self._batch))
        self.seconds.append(time.perf_counter() - start)


def format_comparison(row: Row) -> str:
    """Formats a row as a line of text."""
    return (
        f"{row['columns']:>3} bags of up to {row['longest']:>3} ids, {row['mean_length']:5.1f} on average: padded "
        f"{row['padded_ms']:8.2f} ms ({row['fill_padded']:.0%} full), by length {row['by_length_ms']:8.2f} ms "
        f"({row['fill']:.0%} full), {row['ratio']:.2f} times as fast"
    )
