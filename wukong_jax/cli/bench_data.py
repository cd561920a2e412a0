"""Time the reading and preparing of data, without a model.

    wukong-jax bench_data [--rows=1000000] [--raw_rows=300000] [--repeats=5] [--output=FILE.json]

Rows in the shape of Criteo (13 dense, 26 categorical columns) are generated in a temporary folder. Row blocks are read
shuffled. Preparing a Criteo TSV file is timed in turns with polars only parsing it.
"""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    rows: Annotated[int, "rows of the blocks to read", AtLeast(1)] = 1_000_000
    raw_rows: Annotated[int, "rows of the TSV file to prepare", AtLeast(1)] = 300_000
    repeats: Annotated[int, "repetitions of each case; medians are printed", AtLeast(1)] = 5
    threads: Annotated[int, "reading threads of the loader", AtLeast(1)] = 2
    output: Annotated[str, "JSON file to write the results to"] = ""


def run(settings: Settings) -> None:
    """Times the cases, prints and writes the results."""
    from wukong_jax.bench.data import CATEGORICAL, DENSE, bench_preparing, bench_reading

    columns = f"{DENSE} dense + {CATEGORICAL} categorical columns"
    print(f"{os.cpu_count()} CPU cores, {columns}, median of {settings.repeats}")
    with tempfile.TemporaryDirectory() as folder:
        rows = bench_reading(Path(folder), settings.rows, settings.repeats, settings.threads)
        rows += bench_preparing(Path(folder), settings.raw_rows, settings.repeats)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if settings.output:
        Path(settings.output).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
