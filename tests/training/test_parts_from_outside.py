"""Tests a model, an exchange and a join from another package, named by a config."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.exchange import ReplicatedExchange
from wukong_jax.models.inputs import ModelInputs
from wukong_jax.models.outputs import Outputs
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import build_run

ROWS, HERE = 8, __name__
SCHEMA = Schema("made_up", Source("csv"), labels=(LabelColumn("click"),), categorical=(CategoricalColumn("a", rows=9),))


class SumModel(nn.Module):
    """The smallest possible model: the sum of a row's embeddings and joined columns."""

    @nn.compact
    def __call__(self, inputs: ModelInputs, *, train: bool) -> Outputs:
        bias = self.param("bias", nn.initializers.zeros_init(), (1,))
        joined = sum(column.sum(axis=1, keepdims=True) for column in inputs.extras.values())
        return Outputs(inputs.present_embeddings.sum(axis=(1, 2))[:, None] + joined + bias, {})


class HalvingExchange(ReplicatedExchange):
    """Runs the network on halved embeddings."""

    def run_network(self, network, rows, routed, batch, *, train):
        halves = {name: values / 2 for name, values in self.collect(rows, routed).items()}
        return network(halves, batch, train=train)


class Ones:
    """Joins two ones to every row."""

    @property
    def widths(self):
        return {"ones": 2}

    def __len__(self):
        return 0  # empty, and yet a join

    def __call__(self, columns):
        return {"ones": np.ones((len(columns["ids"]), 2), np.float32)}


opened = []  # the joins that a run opened


def build_model(options, shape):
    assert shape.extras == (("ones", 2),)
    return SumModel(**options)


def build_exchange(options, layout, mesh, model):
    assert isinstance(model, SumModel)
    return HalvingExchange(layout, mesh, **options)


def build_join(options, schema):
    opened.append(Ones(**options))
    return opened[-1]


def build_outside_run(exchange=None, join=None):
    config = {
        "name": "outside",
        "data": {"format": "blocks", "path": "unused", "join": {"factory": f"{HERE}:build_join"}},
        "embeddings": {"width": 4, "optimizer": {"kind": "sgd", "learning_rate": 1.0}},
        "model": {"factory": f"{HERE}:build_model", "options": {}},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "training": {"batch_size": ROWS, "evaluation_batch_size": ROWS, "steps": 1},
    }
    if exchange:
        config["exchange"] = {"factory": exchange}
    return build_run(build_run_config(config), SCHEMA, join=join)


def make_batch():
    zeros, ones = np.zeros(ROWS, np.int32), np.ones((ROWS, 1), np.float32)
    ids = np.arange(ROWS, dtype=np.int32)[:, None]
    dense = np.zeros((ROWS, 0), np.float32)
    extras = {"ones": np.ones((ROWS, 2), np.float32)}
    return Batch(dense, ids, ones, ones, zeros, zeros, zeros, np.ones(ROWS, np.float32), extras)


def test_a_model_from_outside_learns_and_an_exchange_from_outside_decides_how_it_runs():
    batch = make_batch()
    for exchange in (None, f"{HERE}:build_exchange"):
        run = build_outside_run(exchange)
        state = run.init_state()
        table = run.exchange.export_tables(state.tables)["a"]["rows"]
        logits = run.predict_step(state.params, state.statistics, state.tables, batch)
        scale = 0.5 if exchange else 1.0
        np.testing.assert_allclose(logits[:, 0], 2 + scale * table[:ROWS].sum(axis=1), rtol=1e-6)
        state, metrics = run.jit_train_step()(state, batch)
        after = run.exchange.export_tables(state.tables)["a"]["rows"]
        slope = (jax.nn.sigmoid(logits[:, 0]) - 1) / ROWS
        np.testing.assert_allclose((table - after)[:ROWS], scale * np.tile(slope[:, None], 4), rtol=1e-4, atol=1e-7)
        assert float(metrics["finite"]) == 1


@pytest.mark.parametrize("given", [None, Ones()])
def test_a_run_opens_its_join_only_where_it_is_not_given(given):
    opened.clear()
    run = build_outside_run(join=given)
    assert run.shape.extras == (("ones", 2),)
    assert len(opened) == (0 if given is not None else 1)
