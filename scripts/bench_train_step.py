"""Times the whole Wukong train step on tables of two sizes: its cost must not follow the tables.

    python scripts/bench_train_step.py [--output=FILE.json] [--rows 100000 10000000] [--optimizer=rowwise_adagrad]

13 dense and 26 categorical columns (Zipf 1.2), Wukong with two layers of 16 + 16 tokens at width 16. The sizes are
timed in turns, so that what else the machine does falls on both alike.
"""

import argparse
import json
import platform
import time
from typing import Any

import jax
import numpy as np

from wukong_jax.cli.command_line import run_script
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.size import count_flops

COLUMNS, DENSE, ZIPF = 26, 13, 1.2


def build_bench_run(rows: int, batch: int, optimizer: str) -> Run:
    """A run over 26 equal tables that sum to about `rows` rows."""
    columns = tuple(CategoricalColumn(f"c{i}", "identity", rows=rows // COLUMNS) for i in range(COLUMNS))
    dense = tuple(DenseColumn(f"d{i}") for i in range(DENSE))
    schema = Schema("bench", Source("parquet"), labels=(LabelColumn("click"),), dense=dense, categorical=columns)
    config = build_run_config(
        {
            "name": "bench",
            "data": {"format": "blocks", "path": "none"},
            "embeddings": {"width": 16, "optimizer": {"kind": optimizer, "learning_rate": 0.01}},
            "training": {"batch_size": batch, "evaluation_batch_size": batch, "steps": 1},
            "mesh": {"hosts": 1, "chips": 1},
        }
    )
    return build_run(config, schema)


def draw_batch(run: Run, batch: int) -> Batch:
    """Rows with Zipf ids, a table's values in random order."""
    random = np.random.default_rng(0)
    ids = np.empty((batch, COLUMNS), np.int32)
    for field in run.layout.fields:
        cumulative = np.cumsum(1 / np.arange(1, field.rows + 1) ** ZIPF)
        ranks = np.searchsorted(cumulative, random.random(batch) * cumulative[-1])
        ids[:, field.slots[0]] = random.permutation(field.rows)[ranks]
    zeros, ones = np.zeros(batch, np.int32), np.ones((batch, 1), np.float32)
    dense = random.normal(size=(batch, DENSE)).astype(np.float32)
    labels = random.integers(0, 2, (batch, 1)).astype(np.float32)
    return Batch(dense, ids, labels, ones, zeros, zeros, zeros, ones[:, 0], {})


def measure(sizes: list[int], batch: int, optimizer: str, repeats: int) -> list[dict[str, Any]]:
    """Times the step at every size, in turns."""
    cases: list[list[Any]] = []
    for rows in sizes:
        run = build_bench_run(rows, batch, optimizer)
        state, on_devices = run.init_state(), put_batch(draw_batch(run, batch), run.mesh)
        step = run.jit_train_step().lower(state, on_devices).compile()
        cases.append([run, step, state, on_devices, []])
    for _ in range(repeats + 2):
        for case in cases:
            start = time.perf_counter()
            case[2], _ = jax.block_until_ready(case[1](case[2], case[3]))
            case[4].append(time.perf_counter() - start)
    return [describe(case[0], case[1], batch, case[4][2:]) for case in cases]


def describe(run: Run, step: Any, batch: int, seconds: list[float]) -> dict[str, Any]:
    """One result row."""
    flops = count_flops(run)["train_flops_per_example"] * batch
    memory = step.memory_analysis()
    return {
        "rows": sum(stack.rows for stack in run.layout.stacks),
        "ids": batch * COLUMNS,
        "median_ms": round(float(np.median(seconds)) * 1e3, 2),
        "minimum_ms": round(min(seconds) * 1e3, 2),
        "examples_per_second": round(batch / float(np.median(seconds))),
        "model_gflop_per_second": round(flops / float(np.median(seconds)) / 1e9, 1),
        "temporary_bytes": memory.temp_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
    }


def main() -> None:
    """Parses, measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[100_000, 10_000_000], help="rows of all tables together"
    )
    parser.add_argument("--batch", type=int, default=8192, help="rows of a batch")
    parser.add_argument("--optimizer", default="rowwise_adagrad", help="of the tables")
    parser.add_argument("--repeats", type=int, default=25, help="timed steps of each size")
    parser.add_argument("--output", help="JSON file to write")
    arguments = parser.parse_args()
    rows = measure(arguments.rows, arguments.batch, arguments.optimizer, arguments.repeats)
    for row in rows:
        print(json.dumps(row))
    print(f"last over first, medians: {rows[-1]['median_ms'] / rows[0]['median_ms']:.2f}")
    if arguments.output:
        machine = f"{platform.machine()}, {jax.devices()[0].device_kind}, JAX {jax.__version__}"
        with open(arguments.output, "w") as file:
            json.dump({"machine": machine, "optimizer": arguments.optimizer, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    run_script(main)
