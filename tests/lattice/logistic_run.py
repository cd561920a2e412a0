"""A run of logistic regression with hand-written weights, on rows with every kind of column."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from wukong_jax.config import build_run_config, start_config
from wukong_jax.data.blocks.batch import COLUMN_DTYPES
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.rows import open_run_data
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, schema_to_json
from wukong_jax.training.run import build_run

SCHEMA = Schema(
    name="shop",
    source=Source(format="csv"),
    labels=(LabelColumn("click"), LabelColumn("buy")),
    dense=(DenseColumn("price"), DenseColumn("age")),
    categorical=(
        CategoricalColumn("item", encoding="identity", rows=20),
        CategoricalColumn("shelf", encoding="identity", rows=6),
        CategoricalColumn("tags", encoding="identity", rows=8, separator="|", max_length=3),
    ),
    sequences=(CategoricalColumn("history", separator="|", max_length=4, vocabulary_of="item"),),
    domain="site",
    domain_values=("web", "app"),
)
FEATURES = ("price", "age", "item", "shelf", "tags", "history")


def draw_columns(rows, seed, schema=SCHEMA):
    """Draws rows; "buy" is only observed on half of the rows of the web domain, and a few rows have weight 0."""
    random = np.random.default_rng(seed)
    ids = []
    tables = schema.vocabulary_rows()
    for column in schema.id_columns:
        drawn = random.integers(0, tables[column.vocabulary], size=(rows, column.max_length))
        filled = random.integers(0, column.max_length + 1, size=(rows, 1)) if column.separator else 1
        ids.append(np.where(np.arange(column.max_length) < filled, drawn, -1))
    domain = random.integers(0, 2, rows)
    mask = np.ones((rows, 2))
    mask[:, 1] = (domain == 0) & (random.random(rows) < 0.5)
    labels = (random.random((rows, 2)) < (0.4, 0.1)) * mask
    arrays = {
        "dense": random.normal(size=(rows, len(schema.dense))),
        "ids": np.concatenate(ids, axis=1),
        "labels": labels,
        "label_mask": mask,
        "domain": domain,
        "group": np.zeros(rows),
        "timestamp": np.arange(rows),
        "weight": np.where(random.random(rows) < 0.1, 0.0, random.choice([1.0, 2.5], rows)),
    }
    return {name: array.astype(COLUMN_DTYPES[name]) for name, array in arrays.items()}


def write_folder(directory: Path, columns_of, schema=SCHEMA):
    """Writes a prepared data folder; `columns_of` returns the rows of each split."""
    directory.mkdir(parents=True)
    (directory / "schema.json").write_text(schema_to_json(schema))
    for split in SPLITS:
        with BlockWriter(directory, split, schema, rows_per_block=256) as writer:
            if split in columns_of:
                writer.append(columns_of[split])


def open_logistic_run(directory: Path, tables, dense_weights, bias, evaluation_batch_size=256) -> OpenRun:
    """Opens the folder with a logistic regression model with the given weights.

    Args:
      directory: from `write_folder`.
      tables: name to [V, O].
      dense_weights: [F_dense, O].
      bias: [O].
    """
    config = start_config()
    config.name = "shop"
    config.data.factory = "blocks"
    config.data.path = str(directory)
    config.embeddings.width = len(bias)
    config.embeddings.optimizer.kind = "sgd"
    config.embeddings.optimizer.learning_rate = 0.1
    config.model.factory = "wukong_jax.models.logistic_regression:build"
    config.model.options = {}
    config.optimizer.learning_rate = 0.1
    config.training.batch_size = 256
    config.training.steps = 1
    config.training.evaluation_batch_size = evaluation_batch_size
    config = build_run_config(config)
    data = open_run_data(config.data, directory, say=lambda text: None)
    run = build_run(config, data.schema)
    state = run.init_state()
    logical = {table: dict(arrays) for table, arrays in run.exchange.export_tables(state.tables).items()}
    for table, rows in tables.items():
        logical[table]["rows"] = np.asarray(rows, np.float32)
    by_shape = {np.shape(bias): bias, np.shape(dense_weights): dense_weights}
    params = jax.tree.map(lambda leaf: jax.device_put(np.float32(by_shape[leaf.shape]), leaf.sharding), state.params)
    return OpenRun(run, data, state.replace(params=params, tables=run.exchange.import_tables(logical)))


def compute_logits(columns, schema, tables, dense_weights, bias):
    """Computes the logits of the same model slot by slot, [rows, O] float64."""
    logits = columns["dense"].astype(np.float64) @ dense_weights + bias
    for column, start, stop in schema.slot_ranges():
        for slot in range(start, stop):
            ids = columns["ids"][:, slot]
            logits += np.where(ids[:, None] >= 0, np.asarray(tables[column.vocabulary])[ids], 0.0)
    return logits


def without(schema, *names):
    """Returns the schema without the given columns."""
    return dataclasses.replace(
        schema,
        dense=tuple(c for c in schema.dense if c.name not in names),
        categorical=tuple(c for c in schema.categorical if c.name not in names),
        sequences=tuple(c for c in schema.sequences if c.name not in names),
    )
