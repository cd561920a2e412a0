"""Tests that a Lattice network after towers trains on eight devices as on one."""

import chex
import jax
import numpy as np
import pytest

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run

B, FIELDS, EVENTS = 32, 6, 3
SCHEMA = Schema(
    "made_up",
    Source("csv"),
    labels=(LabelColumn("click"), LabelColumn("like")),
    dense=(DenseColumn("age"),),
    categorical=tuple(CategoricalColumn(f"c{i}", rows=20, encoding="identity") for i in range(FIELDS)),
    sequences=(CategoricalColumn("past", separator=" ", max_length=EVENTS, vocabulary_of="c0"),),
    domain="place",
    domain_values=("home", "shop"),
)
LATTICE = {"layers": 1, "fusion": {"fmb_tokens": 2, "lcb_tokens": 2, "rank": 2, "hidden": ()}, "head_hidden": 0}


def make_run(hosts: int, chips: int, module: dict, sequences: tuple[str, ...]) -> Run:
    over = {"over": "lattice.network:build", "over_options": {**LATTICE, "sequences": sequences}}
    fields = {"past": {"pooling": "none"}} if sequences else {}
    config = {
        "name": "lattice behind towers",
        "data": {"format": "blocks", "path": "unused"},
        "embeddings": {"width": 8, "optimizer": {"kind": "sgd", "learning_rate": 0.05}, "fields": fields},
        "model": {"factory": "dmt.model:build", "options": {"towers": 2, "module": module, **over}},
        "loss": {"factory": "lattice.losses:build", "options": {"correlation_weight": 0.3}},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "training": {"batch_size": B, "evaluation_batch_size": B, "steps": 10},
        "mesh": {"hosts": hosts, "chips": chips},
    }
    if hosts * chips > 1:
        config["exchange"] = {"factory": "dmt.tower_exchange:build"}
    return build_run(build_run_config(config), SCHEMA)


def make_batch(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        dense=random.normal(size=(B, 1)).astype(np.float32),
        ids=random.integers(-1, 20, (B, FIELDS + EVENTS)).astype(np.int32),
        labels=random.integers(0, 2, (B, 2)).astype(np.float32),
        label_mask=(random.random((B, 2)) < 0.8).astype(np.float32),
        domain=random.integers(0, 2, B).astype(np.int32),
        group=None,
        timestamp=None,
        weight=np.ones(B, np.float32),
        extras={},
    )


def take_steps(run: Run):
    step, state, losses = run.jit_train_step(), run.init_state(), []
    for seed in range(2):
        state, metrics = step(state, put_batch(make_batch(seed), run.mesh))
        losses.append(float(metrics["loss_sum"]))
    tables = run.exchange.export_tables(state.tables)
    return losses, jax.device_get(state.params), {name: arrays["rows"] for name, arrays in tables.items()}


@pytest.mark.parametrize(
    ("module", "sequences"),
    [({"kind": "pass_through"}, ("past",)), ({"kind": "dlrm", "compression": 2}, ())],
    ids=["sequences", "compressed"],
)
def test_eight_devices_behind_towers_train_as_one(module, sequences):
    one, eight = (take_steps(make_run(*mesh, module, sequences)) for mesh in ((1, 1), (2, 4)))
    # sums over devices add in another order
    chex.assert_trees_all_close(eight, one, rtol=1e-4, atol=1e-6)
    assert one[0][0] != one[0][1]
