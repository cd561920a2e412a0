"""Small runs in memory, with random weights, to export."""

from typing import Any

import jax
import numpy as np

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.state import TrainState

LENGTH = 5
SCHEMA = Schema(
    "served",
    Source("csv"),
    (LabelColumn("click"), LabelColumn("buy")),
    dense=(DenseColumn("price"), DenseColumn("age")),
    categorical=(
        CategoricalColumn("item", encoding="identity", rows=41),
        CategoricalColumn("user", encoding="hash", rows=30),
        CategoricalColumn("tags", encoding="hash", rows=23, separator=" ", max_length=3),
        CategoricalColumn("site", encoding="hash", rows=7),
    ),
    sequences=(CategoricalColumn("history", separator=" ", max_length=LENGTH, vocabulary_of="item"),),
    domain="country",
    domain_values=("a", "b", "c"),
)


def build_served_run(
    factory: str, options: dict[str, Any], *, embeddings: dict[str, Any] | None = None, dtype: str = "float32"
) -> Run:
    """Builds a run of a model on one device."""
    table: dict[str, Any] = {"width": 8, "optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.1}}
    mapping = {
        "name": "served",
        "data": {"factory": "blocks", "path": "nowhere"},
        "embeddings": table | (embeddings or {}),
        "model": {"factory": factory, "options": options},
        "optimizer": {"learning_rate": 0.001},
        "training": {"batch_size": 8, "steps": 1, "compute_dtype": dtype},
    }
    return build_run(build_run_config(mapping), SCHEMA, devices=jax.devices()[:1])


def init_random_state(run: Run) -> TrainState:
    """Creates a state whose start logits, statistics and biases are not the zeros and ones of a new run."""
    state = run.init_state(np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32))
    keys = iter(jax.random.split(jax.random.PRNGKey(3), 1000))

    def move(leaf: jax.Array) -> jax.Array:
        return leaf + 0.05 * jax.random.uniform(next(keys), leaf.shape, leaf.dtype)

    return state.replace(params=jax.tree.map(move, state.params), statistics=jax.tree.map(move, state.statistics))


def draw_served_batch(rows: int, seed: int = 0) -> Batch:
    """Draws rows with empty bags, missing ids, and ids beyond their table."""
    random = np.random.default_rng(seed)
    ids = np.full((rows, SCHEMA.slots), -1, np.int32)
    owners = {column.name: column for column in SCHEMA.id_columns}
    for column, start, stop in SCHEMA.slot_ranges():
        limit = owners[column.vocabulary].rows
        filled = random.integers(0, stop - start + 1, rows)
        drawn = random.integers(0, limit, (rows, stop - start))
        ids[:, start:stop] = np.where(np.arange(stop - start) < filled[:, None], drawn, -1)
    ids[0, 0], ids[1, 0] = 41, 2**31 - 1
    return Batch(
        dense=random.normal(size=(rows, 2)).astype(np.float32),
        ids=ids,
        labels=np.zeros((rows, 2), np.float32),
        label_mask=np.zeros((rows, 2), np.float32),
        domain=random.integers(0, 3, rows).astype(np.int32),
        group=None,
        timestamp=None,
        weight=np.ones(rows, np.float32),
        extras={},
    )
