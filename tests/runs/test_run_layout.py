"""Tests that tables with custom layouts, as on TPUs, keep them in init, step, restore and prediction."""

import jax
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.training import run as run_module
from wukong_jax.training.run import Run, build_run

ROWS, VOCABULARY = 16, 40
COLUMN_MAJOR = Layout((1, 0))  # row-major is what CPUs do anyway
SCHEMA = Schema(
    "made_up",
    Source("csv"),
    labels=(LabelColumn("y"),),
    categorical=tuple(CategoricalColumn(name, rows=VOCABULARY) for name in ("c", "d")),
)


def make_run(placement: str) -> Run:
    config = {
        "name": "layout",
        "data": {"format": "blocks", "path": "unused"},
        "embeddings": {"width": 8, "optimizer": {"kind": "lazy_adam", "learning_rate": 0.05}},
        "model": {"factory": "wukong_jax.models.dlrm:build", "options": {"top_hidden": (8,)}},
        "exchange": {"options": {"placement": placement}},
        "training": {"batch_size": ROWS, "evaluation_batch_size": ROWS, "steps": 1},
        "mesh": {"hosts": 2, "chips": 2},
    }
    return build_run(build_run_config(config), SCHEMA)


def make_batch(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        dense=np.zeros((ROWS, 0), np.float32),
        ids=random.integers(-1, VOCABULARY, (ROWS, 2)).astype(np.int32),
        labels=random.integers(0, 2, (ROWS, 1)).astype(np.float32),
        label_mask=np.ones((ROWS, 1), np.float32),
        domain=np.zeros(ROWS, np.int32),
        group=np.zeros(ROWS, np.int32),
        timestamp=np.zeros(ROWS, np.int64),
        weight=np.ones(ROWS, np.float32),
        extras={},
    )


def find_layouts(state) -> set[tuple[int, ...]]:
    return {leaf.format.layout.major_to_minor for leaf in jax.tree.leaves(state.tables) if leaf.ndim == 2}


def step_and_restore(run: Run) -> tuple:
    """Returns the layouts after init, a step, and a restore from logical tables, with the results."""
    state = run.init_state()
    layouts = [find_layouts(state)]
    state, metrics = run.jit_train_step()(state, put_batch(make_batch(0), run.mesh))
    layouts.append(find_layouts(state))
    logical = jax.tree.map(np.copy, run.exchange.export_tables(state.tables))
    state = jax.device_put(state.replace(tables=run.exchange.import_tables(logical)), run.state_sharding)
    layouts.append(find_layouts(state))
    logits = run.predict_step(state.params, state.statistics, state.tables, put_batch(make_batch(1), run.mesh))
    return layouts, jax.device_get((metrics["loss_sum"], logits)), logical


@pytest.mark.parametrize("placement", ["replicated", "table_wise", "row_wise"])
def test_tables_keep_the_chosen_layout_and_their_values(monkeypatch, placement):
    plain = step_and_restore(make_run(placement))
    pin = lambda mesh, shapes, shardings: jax.tree.map(  # noqa: E731
        lambda a, s: Format(COLUMN_MAJOR, s) if a.ndim == 2 else s, shapes, shardings
    )
    monkeypatch.setattr(run_module, "choose_table_formats", pin)
    pinned = step_and_restore(make_run(placement))
    assert plain[0] == [{(0, 1)}] * 3
    assert pinned[0] == [{(1, 0)}] * 3
    # Sums over a row's numbers may be taken in another order: float32 rounding, which Adam's first step amplifies.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), pinned[1:], plain[1:])
