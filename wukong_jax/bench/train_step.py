"""Times the complete train step of Wukong with tables of several sizes.

The data has 13 dense and 26 categorical columns (Zipf 1.2). The model has two layers of 16 + 16 tokens of width 16. The
sizes are timed in turns, so that other load of the machine affects all equally.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from wukong_jax.bench.zipf_ids import draw_zipf_ids
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.size import count_flops

COLUMNS, DENSE, ZIPF = 26, 13, 1.2


def build_bench_run(rows: int, batch: int, optimizer: str) -> Run:
    """Builds a run with 26 tables of equal size and about `rows` rows in total."""
    config = build_run_config(
        {
            "name": "bench",
            "data": {"format": "blocks", "path": "none"},
            "embeddings": {"width": 16, "optimizer": {"kind": optimizer, "learning_rate": 0.01}},
            "training": {"batch_size": batch, "evaluation_batch_size": batch, "steps": 1},
            "mesh": {"hosts": 1, "chips": 1},
        }
    )
    return build_run(config, build_bench_schema(rows // COLUMNS))


def build_bench_schema(table_rows: int, columns: int = COLUMNS, bag: int = 1) -> Schema:
    """Builds a schema of one label, 13 dense columns, and categorical ones with tables of equal size.

    Args:
      table_rows: rows of each table.
      columns: number of categorical columns.
      bag: ids of a categorical column in a row.
    """
    bags: dict[str, Any] = {"separator": "|", "max_length": bag} if bag > 1 else {}
    categorical = tuple(CategoricalColumn(f"c{i}", "identity", rows=table_rows, **bags) for i in range(columns))
    dense = tuple(DenseColumn(f"d{i}") for i in range(DENSE))
    return Schema("bench", Source("parquet"), labels=(LabelColumn("click"),), dense=dense, categorical=categorical)


def draw_batch(run: Run, batch: int) -> Batch:
    """Draws a batch with Zipf-distributed ids."""
    random = np.random.default_rng(0)
    ids = draw_zipf_ids(random, run.layout, batch, ZIPF)
    zeros, ones = np.zeros(batch, np.int32), np.ones((batch, 1), np.float32)
    dense = random.normal(size=(batch, DENSE)).astype(np.float32)
    labels = random.integers(0, 2, (batch, 1)).astype(np.float32)
    return Batch(dense, ids, labels, ones, zeros, zeros, zeros, ones[:, 0], {})


def measure_step(sizes: Sequence[int], batch: int, optimizer: str, repeats: int) -> list[dict[str, Any]]:
    """Times the step for all sizes, in turns."""
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
    """Builds one row of the results."""
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
