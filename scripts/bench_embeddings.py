"""Times gather and sparse update on tables of two sizes, and reads the compiled step's memory.

    python scripts/bench_embeddings.py [--output=FILE.json] [--rows=100000 --rows=10000000]

213 k ids (8192 rows of a batch by 26 columns), Zipf 1.2. All cases of one optimizer are timed in turns, so
that what else the machine does falls on all alike.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from wukong_jax.embeddings.exchange import MESH_AXES, ReplicatedExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, build_embedding_layout
from wukong_jax.embeddings.merge_rows import merge_equal_rows
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import Tables, init_tables
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.sharding.host_allocator import keep_freed_memory

_ROWS = flags.DEFINE_multi_integer("rows", [100_000, 10_000_000], "Rows of all tables together; give it once a size.")
_BATCH = flags.DEFINE_integer("batch", 8192, "Rows of a batch (B).", lower_bound=1)
_COLUMNS = flags.DEFINE_integer("columns", 26, "Categorical columns, one table each.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 16, "Embedding width (D).", lower_bound=1)
_ZIPF = flags.DEFINE_float("zipf", 1.2, "Exponent of the ids' distribution.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Timed steps of each case.", lower_bound=1)
_CASES = flags.DEFINE_multi_string(
    "case",
    ["rowwise_adagrad/float32", "sgd/float32", "adagrad/float32", "lazy_adam/float32", "rowwise_adagrad/bfloat16"],
    "OPTIMIZER/DTYPE to time; give it once a case.",
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write the rows to.")

Step = Callable[..., tuple[Tables, Any]]


def build_layout(rows: int, optimizer: str, dtype: str) -> EmbeddingLayout:
    """The layout of equal tables that sum to about `rows` rows."""
    each = max(2, rows // _COLUMNS.value)
    columns = tuple(CategoricalColumn(f"c{i}", "identity", rows=each) for i in range(_COLUMNS.value))
    schema = Schema("bench", Source("parquet"), labels=(LabelColumn("click"),), categorical=columns)
    config = EmbeddingsConfig(
        width=_WIDTH.value,
        optimizer=RowOptimizer(optimizer, 0.01),  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
    )
    return build_embedding_layout(schema, config)


def draw_ids(rng: np.random.Generator, layout: EmbeddingLayout) -> np.ndarray:
    """[B, S] int32 ids, Zipf over each table's values, the values in random order."""
    ids = np.empty((_BATCH.value, layout.slots), np.int32)
    for field in layout.fields:
        cumulative = np.cumsum(1 / np.arange(1, field.rows + 1) ** _ZIPF.value)
        ranks = np.searchsorted(cumulative, rng.random(_BATCH.value) * cumulative[-1])
        ids[:, field.slots[0]] = rng.permutation(field.rows)[ranks]
    return ids


def build_step(layout: EmbeddingLayout) -> Step:
    """Gather and update as in a train step, with the least model in between: it sums each row's values."""
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


def measure_case(case: str) -> list[dict[str, Any]]:
    """Times one optimizer and dtype at every table size, in turns."""
    optimizer, dtype = case.split("/")
    rng = np.random.default_rng(0)
    runs = []
    for rows in _ROWS.value:
        layout = build_layout(rows, optimizer, dtype)
        tables = init_tables(layout, jax.random.key(1))
        ids = jnp.asarray(draw_ids(rng, layout))
        gradient = jnp.asarray(rng.standard_normal((*ids.shape, _WIDTH.value)).astype(np.float32))
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
    for index in range(_REPEATS.value + 2):
        for position, (row, compiled, tables, ids, gradient, seconds) in enumerate(runs):
            start = time.perf_counter()
            tables, _ = jax.block_until_ready(compiled(tables, ids, gradient, jnp.int32(index)))
            seconds.append(time.perf_counter() - start)
            runs[position] = (row, compiled, tables, ids, gradient, seconds)
    return [{**row, **summarise(seconds[2:])} for row, *_, seconds in runs]


def measure_merges() -> list[dict[str, Any]]:
    """Times the two ways to merge equal rows, at every table size, in turns."""
    rng = np.random.default_rng(0)
    runs = []
    for rows in _ROWS.value:
        layout = build_layout(rows, "sgd", "float32")
        first_rows = np.array(layout.stacks[0].first_rows)
        ids = jnp.asarray((draw_ids(rng, layout) + first_rows).reshape(-1), jnp.int32)
        gradients = jnp.asarray(rng.standard_normal((ids.size, _WIDTH.value)).astype(np.float32))
        total = layout.stacks[0].rows
        merge = jax.jit(merge_equal_rows, static_argnums=2, donate_argnums=3)
        for method, scratch in (("scratch", jnp.zeros(total, jnp.int32)), ("sort", None)):
            runs.append(({"case": f"merge/{method}", "rows": total}, merge, ids, gradients, scratch, []))
    for _ in range(_REPEATS.value + 2):
        for position, (row, merge, ids, gradients, scratch, seconds) in enumerate(runs):
            start = time.perf_counter()
            merged = jax.block_until_ready(merge(ids, gradients, row["rows"], scratch))
            seconds.append(time.perf_counter() - start)
            runs[position] = (row, merge, ids, gradients, merged.scratch, seconds)
    return [{**row, **summarise(seconds[2:])} for row, *_, seconds in runs]


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Median, minimum and spread (quartiles apart) in milliseconds."""
    low, middle, high = np.percentile(seconds, [25, 50, 75]) * 1e3
    return {
        "median_ms": round(float(middle), 2),
        "minimum_ms": round(min(seconds) * 1e3, 2),
        "spread_ms": round(float(high - low), 2),
    }


def main(arguments: Sequence[str]) -> None:
    """Measures, prints a table and writes JSON."""
    if len(arguments) > 1:
        raise app.UsageError(f"unknown argument {arguments[1]!r}")
    keep_freed_memory()  # as scripts/train.py does
    results = [row for case in _CASES.value for row in measure_case(case)] + measure_merges()
    print(f"{'case':28}{'rows':>12}{'median ms':>11}{'min ms':>9}{'spread':>8}{'temp MB':>9}{'aliased/tables MB':>20}")
    for row in results:
        memory = ""
        if "table_bytes" in row:
            memory = f"{row['temporary_bytes'] / 1e6:9.2f}"
            memory += f"{row['aliased_bytes'] / 1e6:>11.1f}/{row['table_bytes'] / 1e6:.1f}"
        print(
            f"{row['case']:28}{row['rows']:>12,}{row['median_ms']:>11.2f}{row['minimum_ms']:>9.2f}"
            f"{row['spread_ms']:>8.2f}{memory}"
        )
    if _OUTPUT.value:
        device = jax.devices()[0]
        report = {
            "machine": f"{platform.machine()}, {device.platform} {device.device_kind}, JAX {jax.__version__}",
            "settings": {f.name: f.value for f in (_BATCH, _COLUMNS, _WIDTH, _ZIPF, _REPEATS)},
            "rows": results,
        }
        with open(_OUTPUT.value, "w") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    app.run(main)
