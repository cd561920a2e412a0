"""Tests that batch norm works on the global batch: eight devices equal one, and padding is not seen."""

import chex
import jax
import numpy as np
import pytest

from tests.training.test_microbatches import WUKONG, make_batch, make_run
from wukong_jax.runs.evaluation import put_batch

DNN = {"factory": "wukong_jax.models.dnn:build", "options": {"deep_hidden": (16, 8), "mlp_norm": "batch"}}
MODELS = {
    "dnn": {"model": DNN},
    "wukong": {"model": {"factory": "wukong_jax.models.wukong:build", "options": WUKONG | {"mlp_norm": "batch"}}},
    "towers": {
        "exchange": {"factory": "dmt.tower_exchange:build"},
        "model": {
            "factory": "dmt.model:build",
            "options": {
                "towers": 4,
                "module": {"kind": "dlrm", "compression": 2},
                "over": "wukong_jax.models.dlrm:build",
                "over_options": {"top_hidden": (16,), "bottom_hidden": (8,), "mlp_norm": "batch"},
            },
        },
    },
}


def pad(batch, rows):
    """Makes the last rows padding, as the last batch of an epoch has it; their ids and numbers stay, to be noticed."""
    weight = np.array(batch.weight)
    weight[-rows:] = 0
    return batch.replace(weight=weight) if hasattr(batch, "replace") else batch._replace(weight=weight)


def train(run, batches):
    state, step = run.init_state(), run.jit_train_step()
    for batch in batches:
        state, metrics = step(state, put_batch(batch, run.mesh))
    statistics = jax.device_get({key: value for key, value in state.statistics.items() if key != "start_logits"})
    return jax.device_get((state.params, metrics)), statistics


@pytest.mark.parametrize("name", MODELS)
def test_eight_devices_equal_one(name):
    parts = MODELS[name]
    alone = {key: value for key, value in parts.items() if key != "exchange"}
    batches = [make_batch(0), pad(make_batch(1), 11), make_batch(2)]
    many, one = train(make_run(None, 4, 2, **parts), batches), train(make_run(None, **alone), batches)
    assert jax.tree.leaves(one[1])  # the model has moving averages
    chex.assert_trees_all_close(many, one, rtol=1e-4, atol=1e-6)


def test_padding_changes_nothing_of_the_moments():
    run = make_run(None, **MODELS["dnn"])
    padded = pad(make_batch(1), 11)
    other = padded._replace(
        dense=np.where(np.asarray(padded.weight)[:, None] > 0, padded.dense, 1e3).astype(np.float32)
    )
    chex.assert_trees_all_equal(train(run, [padded])[1], train(run, [other])[1])
    different = padded._replace(dense=np.asarray(padded.dense) + np.float32(1))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(train(run, [padded])[1], train(run, [different])[1])


def test_parts_have_moments_of_their_own_and_only_on_request():
    assert make_run(None, **MODELS["dnn"]).count_parts() == 1
    assert make_run(16, **MODELS["dnn"]).count_parts() == 4
