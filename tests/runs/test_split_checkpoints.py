"""Tests that a checkpoint of split dense weights goes on with any other split, mesh and device count."""

import chex
import jax
import pytest

from tests.training.sharded_steps import (
    MESH_OF_EIGHT,
    MODELS,
    SCHEMA,
    TOWER_EXCHANGE,
    make_batch,
    make_run,
    put_towers_before,
    take_steps_on_one_device,
)
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.progress import RunProgress
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState

ADAM = {"factory": "adam", "learning_rate": 1e-3}
TOWERS = put_towers_before(MODELS["dcnv2"])
ONE = {"hosts": 1, "chips": 1}


def build(mesh: dict, **parts) -> Run:
    exchange = {} if mesh == ONE else {"exchange": TOWER_EXCHANGE}
    return make_run(TOWERS, mesh, **exchange, **parts)


def save(run: Run, state: TrainState, folder) -> None:
    checkpoints = Checkpoints(folder, run.exchange)
    checkpoints.save(state, RunProgress())
    checkpoints.close()


def restore(run: Run, folder) -> TrainState:
    checkpoints = Checkpoints(folder, run.exchange, read_only=True)
    state, _ = checkpoints.restore(run.abstract_state(), "latest", run.state_sharding)
    checkpoints.close()
    return state


def read_dense(state: TrainState):
    return jax.device_get((state.params, state.optimizer_state, state.statistics, state.step))


@pytest.mark.parametrize("first", [MESH_OF_EIGHT | {"fsdp": "all"}, ONE], ids=["split", "whole"])
def test_any_split_and_mesh_restores_the_same_state(first, tmp_path):
    run = build(first, optimizer=ADAM)
    state = run.init_state()
    # Moments that are not zero, without compiling a step.
    state = state.replace(optimizer_state=jax.tree.map(lambda leaf: leaf + 1, state.optimizer_state))
    save(run, state, tmp_path)
    for mesh in (
        ONE,
        MESH_OF_EIGHT,
        MESH_OF_EIGHT | {"fsdp": "chips"},
        {"hosts": 4, "chips": 2, "fsdp": "all"},
        {"hosts": 1, "chips": 4, "fsdp": "all"},
    ):
        other = build(mesh, optimizer=ADAM)
        restored = restore(other, tmp_path)
        chex.assert_trees_all_equal(read_dense(restored), read_dense(state))
        for leaf, sharding in zip(
            jax.tree.leaves((restored.params, restored.optimizer_state)),
            jax.tree.leaves((other.state_sharding.params, other.state_sharding.optimizer_state)),
            strict=True,
        ):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_a_run_goes_on_whole_where_it_was_split(tmp_path):
    split = make_run(MODELS["dcnv2"], MESH_OF_EIGHT | {"fsdp": "all"})
    state, _ = split.jit_train_step()(split.init_state(), put_batch(make_batch(0, SCHEMA), split.mesh))
    save(split, state, tmp_path)
    whole = make_run(MODELS["dcnv2"], ONE)
    state, _ = whole.jit_train_step()(restore(whole, tmp_path), put_batch(make_batch(1, SCHEMA), whole.mesh))
    _, params, *_ = take_steps_on_one_device("dcnv2")
    chex.assert_trees_all_close(jax.device_get(state.params), params, rtol=1e-4, atol=1e-6)
