"""Times gather and sparse update for tables of several sizes, and reads the memory of the compiled step.

All sizes of a case are timed in turns, so that other load of the machine affects all equally.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.bench.zipf_ids import draw_zipf_ids
from wukong_jax.embeddings.exchange import MESH_AXES, ReplicatedExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, build_embedding_layout
from wukong_jax.embeddings.merge_rows import MergedRows, merge_by_scratch, merge_by_sort
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import Tables, init_tables
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source


@dataclasses.dataclass(frozen=True)
class TableBench:
    """Sizes and settings of the benchmark."""

    rows: tuple[int, ...]  # sizes, as total rows of all tables
    batch: int  # B
    columns: int  # categorical columns, one table each
    width: int  # D
    zipf: float  # exponent of the ids' Zipf distribution
    repeats: int  # timed steps per case


def build_layout(bench: TableBench, rows: int, optimizer: str, dtype: str) -> EmbeddingLayout:
    """Builds a layout of tables of equal size with about `rows` rows in total."""
    each = max(2, rows // bench.columns)
    columns = tuple(CategoricalColumn(f"c{i}", "identity", rows=each) for i in range(bench.columns))
    schema = Schema("bench", Source("parquet"), labels=(LabelColumn("click"),), categorical=columns)
    config = EmbeddingsConfig(
        width=bench.width,
        optimizer=RowOptimizer(optimizer, 0.01),  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
    )
    return build_embedding_layout(schema, config)


def build_step(layout: EmbeddingLayout) -> Any:
    """Builds gather and update as in a train step, with a minimal model that sums each row's values."""
    exchange = ReplicatedExchange(layout, jax.make_mesh((1, 1), MESH_AXES, devices=jax.devices()[:1]))

    def step(tables: Tables, ids: jax.Array, gradient: jax.Array, index: jax.Array) -> tuple[Tables, Any]:
        routed = exchange.route_ids(ids)
        rows = exchange.gather(tables, routed)
        logits = jax.tree.map(lambda values: jnp.sum(values, axis=(1, 2)), exchange.collect(rows, routed))
        gradients = dict.fromkeys(rows, gradient)
        key = jax.random.key(0)
        tables = exchange.apply_row_gradients(tables, routed, rows, gradients, RowStep(index, jnp.float32(1), key))
        return tables, logits

    return jax.jit(step, donate_argnums=0)


def measure_case(bench: TableBench, case: str) -> list[dict[str, Any]]:
    """Times one optimizer and dtype for all table sizes, in turns."""
    optimizer, dtype = case.split("/")
    rng = np.random.default_rng(0)
    runs: list[Any] = []
    for rows in bench.rows:
        layout = build_layout(bench, rows, optimizer, dtype)
        tables = init_tables(layout, jax.random.key(1))
        ids = jnp.asarray(draw_zipf_ids(rng, layout, bench.batch, bench.zipf))
        gradient = jnp.asarray(rng.standard_normal((*ids.shape, bench.width)).astype(np.float32))
        compiled = build_step(layout).lower(tables, ids, gradient, jnp.int32(0)).compile()
        memory = compiled.memory_analysis()
        table_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(tables))
        row = {
            "case": case,
            "rows": sum(stack.rows for stack in layout.stacks),
            "ids": int(ids.size),
            "distinct_ids": sum(len(np.unique(np.asarray(ids[:, s]))) for s in range(layout.slots)),
            "table_bytes": table_bytes,
            "aliased_bytes": memory.alias_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        }
        runs.append((row, compiled, tables, ids, gradient, []))
    for index in range(bench.repeats + 2):
        for position, (row, compiled, tables, ids, gradient, seconds) in enumerate(runs):
            start = time.perf_counter()
            tables, _ = jax.block_until_ready(compiled(tables, ids, gradient, jnp.int32(index)))
            seconds.append(time.perf_counter() - start)
            runs[position] = (row, compiled, tables, ids, gradient, seconds)
    return [{**row, **summarise(seconds[2:])} for row, *_, seconds in runs]


def measure_merges(bench: TableBench) -> list[dict[str, Any]]:
    """Times the two methods of merging equal rows for all table sizes, in turns."""
    rng = np.random.default_rng(0)
    runs: list[Any] = []
    for rows in bench.rows:
        layout = build_layout(bench, rows, "sgd", "float32")
        first_rows = np.array(layout.stacks[0].first_rows)
        ids = jnp.asarray((draw_zipf_ids(rng, layout, bench.batch, bench.zipf) + first_rows).reshape(-1), jnp.int32)
        gradients = jnp.asarray(rng.standard_normal((ids.size, bench.width)).astype(np.float32))
        total = layout.stacks[0].rows
        merge = jax.jit(_merge, static_argnums=2, donate_argnums=3)
        for method, scratch in (("scratch", jnp.zeros(total, jnp.int32)), ("sort", None)):
            runs.append(({"case": f"merge/{method}", "rows": total}, merge, ids, gradients, scratch, []))
    for _ in range(bench.repeats + 2):
        for position, (row, merge, ids, gradients, scratch, seconds) in enumerate(runs):
            start = time.perf_counter()
            merged = jax.block_until_ready(merge(ids, gradients, row["rows"], scratch))
            seconds.append(time.perf_counter() - start)
            runs[position] = (row, merge, ids, gradients, merged.scratch, seconds)
    return [{**row, **summarise(seconds[2:])} for row, *_, seconds in runs]


def _merge(row_ids: jax.Array, gradients: jax.Array, table_rows: int, scratch: jax.Array | None) -> MergedRows:
    if scratch is None:
        return merge_by_sort(row_ids, gradients, table_rows)
    return merge_by_scratch(row_ids, gradients, scratch)


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Returns median, minimum and spread (interquartile range) in milliseconds."""
    low, middle, high = np.percentile(seconds, [25, 50, 75]) * 1e3
    return {
        "median_ms": round(float(middle), 2),
        "minimum_ms": round(min(seconds) * 1e3, 2),
        "spread_ms": round(float(high - low), 2),
    }
