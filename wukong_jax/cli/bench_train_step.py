"""Time the train step with tables of several sizes, which should not affect it.

    wukong-jax bench_train_step [--output=FILE.json] [--rows=100000,10000000] [--optimizer=rowwise_adagrad]

The data has 13 dense and 26 categorical columns (Zipf 1.2). The model is Wukong with two layers of 16 + 16 tokens of
width 16. The sizes are timed in turns.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    rows: Annotated[tuple[int, ...], "sizes to time, as total rows of all tables", AtLeast(52)] = (100_000, 10_000_000)
    batch: Annotated[int, "rows of a batch", AtLeast(1)] = 8192
    optimizer: Annotated[Literal["sgd", "adagrad", "rowwise_adagrad", "lazy_adam"], "row optimizer of the tables"] = (
        "rowwise_adagrad"
    )
    repeats: Annotated[int, "timed steps per size", AtLeast(1)] = 25
    output: Annotated[str, "JSON file to write"] = ""


def run(settings: Settings) -> None:
    """Times the sizes, prints and writes the results."""
    from wukong_jax.bench.machine import describe_machine
    from wukong_jax.bench.train_step import measure_step

    rows = measure_step(settings.rows, settings.batch, settings.optimizer, settings.repeats)
    for row in rows:
        print(json.dumps(row))
    print(f"last over first, medians: {rows[-1]['median_ms'] / rows[0]['median_ms']:.2f}")
    if settings.output:
        report = {"machine": describe_machine(), "optimizer": settings.optimizer, "rows": rows}
        Path(settings.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
