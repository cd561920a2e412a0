"""Times pooled lookups and their sparse update at FBGEMM's published setting.

The forward pass goes from ids to pooled vectors. The backward pass goes from their gradients to updated tables; as in a
train step, equal rows are merged and each is written once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.bench.accelerator.sizes import BagSetting, Cases, Row, Size
from wukong_jax.bench.accelerator.timing import describe_times, time_calls
from wukong_jax.embeddings.exchange import MESH_AXES, ReplicatedExchange
from wukong_jax.embeddings.layout import EmbeddingLayout, EmbeddingsConfig, build_embedding_layout
from wukong_jax.embeddings.row_optimizers import RowOptimizer
from wukong_jax.embeddings.sparse_update import RowStep
from wukong_jax.embeddings.tables import Tables
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source

OPTIMIZERS = ("sgd", "rowwise_adagrad", "lazy_adam")
# Milliseconds on one H100 that FBGEMM publishes for 1.05 M lookups of 128 float32 numbers, 350 k rows distinct.
PUBLISHED_MS = {"forward": 0.345, "sgd": 0.614, "lazy_adam": 1.005}


def list_cases(size: Size) -> Cases:
    """Returns the stage's cases."""
    cases: Cases = {"forward": functools.partial(measure_forward, size)}
    return cases | {f"backward {kind}": functools.partial(measure_backward, size, kind) for kind in OPTIMIZERS}


def build_bag_layout(setting: BagSetting, kind: str) -> EmbeddingLayout:
    """Builds the layout: a table and a bag that is summed for each column."""
    column = functools.partial(CategoricalColumn, separator=",", max_length=setting.length)
    names = [f"c{i}" for i in range(setting.tables)]
    columns = tuple(column(name, "identity", rows=setting.rows // setting.tables) for name in names)
    schema = Schema("bags", Source("parquet"), labels=(LabelColumn("click"),), categorical=columns)
    optimizer = RowOptimizer(kind, 0.01)  # type: ignore[arg-type]
    return build_embedding_layout(schema, EmbeddingsConfig(width=setting.width, optimizer=optimizer))


def draw_bag_ids(setting: BagSetting) -> np.ndarray:
    """Draws [B, tables * length] int32 ids, of which exactly `distinct // tables` differ in each table."""
    random = np.random.default_rng(0)
    each, distinct = setting.batch * setting.length, setting.distinct // setting.tables
    ids = []
    for _ in range(setting.tables):
        chosen = random.permutation(setting.rows // setting.tables)[:distinct]
        drawn = np.concatenate([chosen, random.choice(chosen, each - distinct)])
        ids.append(random.permutation(drawn).reshape(setting.batch, setting.length))
    return np.concatenate(ids, axis=1).astype(np.int32)


def measure_forward(size: Size) -> Row:
    """Times lookup and pooling."""
    exchange, tables, ids = _prepare(size.bags, "sgd")

    def forward(tables: Tables, ids: jax.Array) -> dict[str, jax.Array]:
        routed = exchange.route_ids(ids)
        return exchange.collect(exchange.gather(tables, routed), routed)

    compiled = jax.jit(forward).lower(tables, ids).compile()
    seconds = time_calls(lambda: compiled(tables, ids), size.rounds, size.calls)
    return _describe(size, "forward", seconds, compiled)


def measure_backward(size: Size, kind: str) -> Row:
    """Times merge and update with a row optimizer."""
    exchange, tables, ids = _prepare(size.bags, kind)
    setting = size.bags
    shape = (setting.batch, setting.tables, setting.width)
    gradients = {name: 1e-3 * jax.random.normal(jax.random.key(2), shape) for name in tables}

    def backward(tables: Tables, ids: jax.Array, gradients: dict[str, jax.Array], step: jax.Array) -> Tables:
        routed = exchange.route_ids(ids)
        rows = exchange.gather(tables, routed)
        _, pull_back = jax.vjp(lambda rows: exchange.collect(rows, routed), rows)
        row_step = RowStep(step, jnp.float32(1), jax.random.key(0))
        return exchange.apply_row_gradients(tables, routed, rows, pull_back(gradients)[0], row_step)

    compiled = jax.jit(backward, donate_argnums=0).lower(tables, ids, gradients, jnp.int32(0)).compile()
    step = jnp.int32(0)

    def once() -> Tables:
        nonlocal tables
        tables = compiled(tables, ids, gradients, step)
        return tables

    return _describe(size, kind, time_calls(once, size.rounds, size.calls), compiled)


def _prepare(setting: BagSetting, kind: str) -> tuple[ReplicatedExchange, Tables, jax.Array]:
    mesh = jax.make_mesh((1, 1), MESH_AXES, devices=jax.devices()[:1])
    exchange = ReplicatedExchange(build_bag_layout(setting, kind), mesh)
    return exchange, exchange.init_tables(jax.random.key(1)), jnp.asarray(draw_bag_ids(setting))


def _describe(size: Size, name: str, seconds: list[float], compiled: Any) -> Row:
    setting, times, memory = size.bags, describe_times(seconds), compiled.memory_analysis()
    row: Row = {
        "lookups": setting.lookups,
        "distinct": setting.distinct // setting.tables * setting.tables,
        "width": setting.width,
        "bag_length": setting.length,
        "table_rows": setting.rows // setting.tables * setting.tables,
        **times,
        "temporary_bytes": memory.temp_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
    }
    if name in PUBLISHED_MS and setting.lookups >= 1 << 20:
        row["published_h100_ms"] = PUBLISHED_MS[name]
        row["of_published"] = round(times["median_ms"] / PUBLISHED_MS[name], 3)
    return row
