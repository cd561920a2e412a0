"""Tests that each kind of part in a config can come from another package, is trained, and can refuse its options."""

import json

import pytest

from tests import outside_parts
from wukong_jax.api import train
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.data.sources import RowSource
from wukong_jax.errors import UserError
from wukong_jax.factories import MOVED, Part, load_factory
from wukong_jax.runs.folder import RunFolder

HERE = "tests.outside_parts"
# Config keys that name a part of each kind.
PARTS = {
    "model": {"model.factory": f"{HERE}:build_model", "model.options": {"hidden": 8}},
    "loss": {"loss.factory": f"{HERE}:build_loss", "loss.options": {"scale": 2.0}},
    "exchange": {"exchange.factory": f"{HERE}:build_exchange"},
    "join": {"data.join.factory": f"{HERE}:build_join", "model.factory": f"{HERE}:build_model", "model.options": {}},
    "optimizer": {"optimizer.factory": f"{HERE}:build_optimizer", "optimizer.options": {"decay": 0.01}},
    "data": {"data.factory": f"{HERE}:build_source", "data.options": {"rows": 1024}},
}


def small_run(**changes):
    rows = {"train_rows": 2048, "validation_rows": 512, "test_rows": 512, "fields": 3, "values_per_field": 5}
    config = load_config("quickstart:logistic_regression", {"data.options": rows, "mesh.chips": 1})
    config.training.batch_size = config.training.evaluation_batch_size = 256
    config.training.steps = 4
    for key, value in changes.items():
        section, _, last = key.rpartition(".")
        node = config
        for name in section.split("."):
            node = node[name]
        node[last] = value
    return config


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_from_outside_trains_and_its_run_may_go_on(tmp_path, kind):
    outside_parts.USED.clear()
    config = small_run(**PARTS[kind])
    assert train(build_run_config(config), tmp_path, print)["step"] == 4
    assert kind in outside_parts.USED
    stored = json.loads((tmp_path / "config.json").read_text())
    section = stored["data"]["join"] if kind == "join" else stored[kind]
    assert section["factory"].startswith(HERE)
    if kind == "data":  # every option is kept, those at their defaults too
        assert section["options"] == {"rows": 1024, "values": 5}
    config.training.steps = 6
    assert RunFolder(tmp_path).claim(build_run_config(config)) == {"training.steps": (4, 6)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({**PARTS["data"], "data.options": {"rows": 0}}, r"config\.data\.options\.rows = 0: must be at least 1"),
        ({**PARTS["data"], "data.path": "x"}, "leave path and schema out"),
        ({**PARTS["model"], "model.options": {"hiden": 3}}, r"config\.model\.options\.hiden = 3: unknown key; did you"),
        ({**PARTS["loss"], "loss.options": {"scale": -1.0}}, r"config\.loss\.options\.scale = -1\.0: must be above 0"),
        ({**PARTS["exchange"], "exchange.options": {"a": 1}}, r"config\.exchange\.options\.a: there are no options"),
        ({"data.factory": f"{HERE}:build_sauce"}, rf"config\.data\.factory = '{HERE}:build_sauce': .*'raw' or"),
        ({"data.join.factory": "nowhere:build"}, r"config\.data\.join\.factory = 'nowhere:build'"),
    ],
)
def test_what_an_outside_part_refuses_is_one_line(tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as refused:
        train(build_run_config(small_run(**changes)), tmp_path, print)
    assert "\n" not in str(refused.value)


def test_a_source_has_one_place_for_its_rows(tmp_path):
    for places in ({}, {"folder": tmp_path, "prepare": print}):
        with pytest.raises(UserError, match="name a folder of row blocks or prepare one"):
            RowSource(print, **places)


def test_options_of_no_part_are_refused():
    with pytest.raises(UserError, match="there are options but no factory"):
        Part("", {"store": "x"})


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_factory_that_has_moved_is_found_under_its_old_name(old, new):
    assert load_factory("config.data.join.factory", old) is load_factory("config.data.join.factory", new)
