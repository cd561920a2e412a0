"""Times the train step of Wukong while one size grows and all others stay: batch, width, layers, fields, rows, bags.

The data has 13 dense columns and categorical ones with Zipf-distributed ids (1.2). All sizes of a sweep are compiled
first, then timed in turns, so that other load of the machine affects all equally. The time is compared with the work
that the sweep should cost (`Sweep.work`): it is *above its order* where it grew by more than `TOLERANCE` times as much
as the work, from any smaller size of the sweep.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from wukong_jax.bench.train_step import build_bench_schema, draw_batch
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.size import count_flops

TOLERANCE = 1.25
STEPS_PER_TURN = 3  # timed; one more before them is not, because the case before has filled the caches
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a run."""

    batch: int = 2048
    width: int = 16  # D
    layers: int = 2  # of 8 + 8 tokens
    fields: int = 26  # categorical columns
    table_rows: int = 10_000  # of each table
    bag: int = 1  # ids of each categorical column in a row


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Values of one size, and the work that the step's time should follow."""

    values: tuple[int, ...]
    work: Literal["FLOPs", "ids", "constant"]


SWEEPS: Mapping[str, Sweep] = {
    "batch": Sweep((512, 1024, 2048, 4096, 8192), "FLOPs"),
    "width": Sweep((4, 8, 16, 32, 64), "FLOPs"),
    "layers": Sweep((1, 2, 4, 8), "FLOPs"),
    "fields": Sweep((6, 13, 26, 52, 104), "FLOPs"),
    "table_rows": Sweep((1_000, 10_000, 100_000, 1_000_000), "constant"),
    "bag": Sweep((1, 2, 4, 8, 16), "ids"),
}


class TimedStep:
    """A compiled train step on one batch, with its state and times."""

    def __init__(self, sizes: Sizes):
        """Builds and compiles the step; takes none yet."""
        self.run = build_sized_run(sizes)
        host_batch = draw_batch(self.run, sizes.batch)
        self.counts = count_work(self.run, host_batch)
        self._state, self._batch = self.run.init_state(), put_batch(host_batch, self.run.mesh)
        self._step = self.run.jit_train_step().lower(self._state, self._batch).compile()

    def take_turn(self) -> list[float]:
        """Takes the steps of a turn, and returns the seconds of each timed one."""
        seconds = []
        for _ in range(1 + STEPS_PER_TURN):
            start = time.perf_counter()
            self._state, _ = jax.block_until_ready(self._step(self._state, self._batch))
            seconds.append(time.perf_counter() - start)
        return seconds[1:]


def measure_growth(
    sweeps: Mapping[str, Sweep], base: Sizes, rounds: int, say: Callable[[str], None]
) -> Iterator[list[Row]]:
    """Times the sweeps.

    Args:
      sweeps: sweeps by the size that grows.
      base: the other sizes.
      rounds: turns of each case.
      say: prints a line.

    Yields:
      The rows of each sweep, in ascending order of its values.
    """
    compiled: dict[Sizes, TimedStep] = {}
    for name, sweep in sweeps.items():
        for value in sweep.values:
            sizes = dataclasses.replace(base, **{name: value})
            if sizes not in compiled:
                compiled[sizes] = TimedStep(sizes)
        cases = [compiled[dataclasses.replace(base, **{name: value})] for value in sweep.values]
        seconds: list[list[float]] = [[] for _ in cases]
        for case in cases:
            case.take_turn()
        for _ in range(rounds):
            for case, times in zip(cases, seconds, strict=True):
                times += case.take_turn()
        rows = [
            describe_case(name, value, sweep.work, case, times)
            for value, case, times in zip(sweep.values, cases, seconds, strict=True)
        ]
        rows = compare_with_work(rows)
        for row in rows:
            say(format_row(row))
        yield rows


def build_sized_run(sizes: Sizes) -> Run:
    """Builds a run of the given sizes, with row-wise AdaGrad and the default choice of microbatches."""
    schema = build_bench_schema(sizes.table_rows, sizes.fields, sizes.bag)
    return build_run(build_run_config(describe_config(sizes)), schema)


def describe_config(sizes: Sizes) -> dict[str, Any]:
    """Returns the config of a run of the given sizes as a mapping, with placeholders for data and steps."""
    return {
        "name": "bench",
        "data": {"factory": "blocks", "path": "none"},
        "embeddings": {"width": sizes.width, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.01}},
        "model": {"options": {"layers": sizes.layers, "fmb_tokens": 8, "lcb_tokens": 8}},
        "training": {"batch_size": sizes.batch, "evaluation_batch_size": sizes.batch, "steps": 1},
        "mesh": {"hosts": 1, "chips": 1},
    }


def count_work(run: Run, batch: Batch) -> dict[str, Any]:
    """Counts a step's FLOPs, ids, distinct rows, and bytes of tables that are read and written.

    Every id reads its row; every distinct row is written once, and its optimizer's number is read and written.
    """
    layout = run.layout
    ids = batch.ids + np.repeat([field.first_row for field in layout.fields], [field.length for field in layout.fields])
    distinct = len(np.unique(ids))
    row_bytes = 4 * layout.width
    return {
        "microbatches": run.count_parts(),
        "flops": round(count_flops(run)["train_flops_per_example"] * len(batch.ids)),
        "ids": batch.ids.size,
        "distinct_rows": distinct,
        "table_bytes": batch.ids.size * row_bytes + distinct * (row_bytes + 8),
    }


def describe_case(name: str, value: int, work: str, case: TimedStep, seconds: Sequence[float]) -> Row:
    """Returns one row of results, before it is compared with the sweep's others."""
    units = {"FLOPs": case.counts["flops"], "ids": case.counts["ids"], "constant": 1}
    return {
        "sweep": name,
        "value": value,
        "median_ms": round(float(np.median(seconds)) * 1e3, 3),
        "minimum_ms": round(min(seconds) * 1e3, 3),
        "timed_steps": len(seconds),
        **case.counts,
        "work": work,
        "work_units": units[work],
    }


def compare_with_work(rows: Sequence[Row]) -> list[Row]:
    """Compares the time of a sweep's rows with their work.

    Args:
      rows: rows of one sweep in ascending order of work.

    Returns:
      The rows with the fitted exponents of time and work in the size that grows, the most that the time grew beyond
      the work from any smaller size (`over_work`), and whether that is above its order.
    """
    values = [row["value"] for row in rows]
    exponents = {
        "time_exponent": round(fit_exponent(values, [row["median_ms"] for row in rows]), 3),
        "expected_exponent": round(fit_exponent(values, [row["work_units"] for row in rows]), 3),
    }
    unit_times = [row["median_ms"] / row["work_units"] for row in rows]
    compared = []
    for i, row in enumerate(rows):
        over = round(unit_times[i] / min(unit_times[: i + 1]), 3)
        compared.append({**row, **exponents, "over_work": over, "above_its_order": over > TOLERANCE})
    return compared


def fit_exponent(values: Sequence[float], numbers: Sequence[float]) -> float:
    """Returns the exponent of the power law that fits numbers against values; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.log(values), np.log(numbers), 1)[0])


def format_row(row: Mapping[str, Any]) -> str:
    """Formats a row as a line of text."""
    mark = f"  ABOVE its order, {row['over_work']:.2f} times the growth of its work" if row["above_its_order"] else ""
    return (
        f"{row['sweep']:>10} {row['value']:>9,}  {row['median_ms']:9.2f} ms (at least {row['minimum_ms']:.2f})  "
        f"{row['flops'] / 1e9:8.2f} GFLOP  {row['table_bytes'] / 1e6:7.2f} MB of tables{mark}"
    )
