"""Tests that models behind towers train alike with dense and tower weights split over devices."""

import jax
import pytest

from tests.training.sharded_steps import (
    MESH_OF_EIGHT,
    MODELS,
    TOWER_EXCHANGE,
    check_steps,
    make_run,
    put_towers_before,
)
from wukong_jax.sharding.mesh import CHIP, HOST
from wukong_jax.sharding.traffic.step_traffic import TOWER_GRADIENTS, measure_traffic


@pytest.mark.parametrize(
    ("name", "fsdp", "remat", "microbatch"),
    [
        ("wukong", "all", False, 2),
        ("dcnv2", "chips", True, 2),
        ("lattice", "all", True, 0),
    ],
)
def test_steps_on_eight_devices_are_those_on_one(name, fsdp, remat, microbatch):
    run = check_steps(name, fsdp, remat, microbatch, towers=True)
    own = jax.tree.map(lambda placed: placed.spec, run.state_sharding.params["model"]["towers"])
    assert {tuple(spec) for spec in own.values()} == {(HOST,)}  # on their hosts, a copy on each chip


@pytest.mark.parametrize("fsdp", ["none", "all"])
def test_gradients_of_towers_are_added_up_inside_hosts_only(fsdp):
    mesh = MESH_OF_EIGHT | {"fsdp": fsdp, "reduce_dtype": "bfloat16"}
    run = make_run(put_towers_before(MODELS["dcnv2"]), mesh, exchange=TOWER_EXCHANGE)
    lowered = run.jit_train_step().lower(*run.abstract_inputs())
    traffic = measure_traffic(lowered.compile().as_text(), 2, 4)
    assert traffic.total(axis=HOST, purpose=TOWER_GRADIENTS) == 0
    assert traffic.total(axis=CHIP, purpose=TOWER_GRADIENTS) > 0
