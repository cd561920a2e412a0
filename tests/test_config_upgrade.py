"""Tests configs with old keys: config files, flags, and the config.json of run folders."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from wukong_jax.config import build_run_config, compare_run_configs, start_config
from wukong_jax.config_files import load_config
from wukong_jax.config_overrides import apply_flags
from wukong_jax.config_upgrade import upgrade_config
from wukong_jax.errors import UserError
from wukong_jax.runs.folder import RunFolder

# config.json of run folders of version 0.1, each of the config that is named.
OLD = Path(__file__).with_name("old_configs")
OLD_FILE = """
from ml_collections import ConfigDict
from wukong_jax.config import start_config

def get_config():
    config = start_config()
    config.name = "old"
    config.data.format = "planted_clicks"
    config.data.planted = ConfigDict({"fields": 3})
    config.data.planted.train_rows = 100
    config.embeddings.width = 4
    config.embeddings.optimizer.kind, config.embeddings.optimizer.learning_rate = "sgd", 0.1
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.1
    config.optimizer.beta1 = 0.9
    config.training.batch_size, config.training.epochs = 10, 1
    return config
"""


@pytest.mark.parametrize(
    ("file", "name"),
    [("quickstart", "quickstart"), ("ktap_student", "lattice/ktap_planted:both@0.5"), ("criteo_10k", "criteo_10k")],
)
def test_a_run_of_an_earlier_version_goes_on_with_its_config(tmp_path, file, name):
    (tmp_path / "config.json").write_text((OLD / f"{file}.json").read_text())
    (tmp_path / "checkpoints" / "latest" / "1").mkdir(parents=True)
    changes = {}
    if file == "criteo_10k":
        changes = {"data.path": "x", "data.options": {"on_bad_row": "skip"}, "optimizer.factory": "adamw"}
        changes["optimizer.options"] = {"beta2": 0.99, "weight_decay": 0.01}
    config = load_config(name)
    config.update_from_flattened_dict(changes)
    config.training.log_every_steps = 7
    allowed = RunFolder(tmp_path).claim(build_run_config(config))
    assert set(allowed) == {"training.log_every_steps"}
    RunFolder(tmp_path).record_config(build_run_config(config))
    assert "format" not in json.loads((tmp_path / "config.json").read_text())["data"]


def test_an_old_run_says_what_it_said():
    old = build_run_config(json.loads((OLD / "quickstart.json").read_text()))
    assert (old.data.factory, old.data.options["order_shares"]) == ("planted_clicks", [0.3, 0.7])
    assert (old.optimizer.factory, dict(old.optimizer.options)) == ("adam", {})
    student = build_run_config(json.loads((OLD / "ktap_student.json").read_text()))
    assert student.data.join.factory == "lattice.teacher.knowledge_transfer:build_join"
    raw = build_run_config(json.loads((OLD / "criteo_10k.json").read_text()))
    assert (raw.data.factory, raw.data.schema, raw.data.options) == ("raw", "criteo", {"on_bad_row": "skip"})
    assert (raw.optimizer.factory, raw.optimizer.options) == ("adamw", {"beta2": 0.99, "weight_decay": 0.01})


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "old.py"
    path.write_text(OLD_FILE)
    return str(path)


def test_a_config_file_of_an_earlier_version_still_works(old_file):
    built = build_run_config(load_config(old_file))
    assert (built.data.factory, built.data.options["fields"], built.data.options["train_rows"]) == (
        "planted_clicks",
        3,
        100,
    )
    assert (built.optimizer.factory, built.optimizer.options) == ("adamw", {"weight_decay": 0.1})


@pytest.mark.parametrize(
    ("flags", "section", "expected"),
    [
        (["--config.data.planted.train_rows=7"], "data", {"options": {"fields": 3, "train_rows": 7}}),
        (
            ["--config.optimizer.name=adam", "--config.optimizer.beta1=0.5", "--config.optimizer.weight_decay=0"],
            "optimizer",
            {"factory": "adam", "options": {"beta1": 0.5, "weight_decay": 0.0}},
        ),
    ],
)
@pytest.mark.parametrize("how", ["flags", "python"])
def test_old_keys_can_be_overridden(old_file, flags, section, expected, how):
    if how == "flags":
        config = apply_flags(load_config(old_file), flags)
    else:
        pairs = [flag.removeprefix("--config.").split("=") for flag in flags]
        config = load_config(old_file, {key: value if value == "adam" else json.loads(value) for key, value in pairs})
    loaded = config[section].to_dict()
    assert {key: loaded[key] for key in expected} == expected


def test_raw_rows_can_be_replaced_by_blocks_with_old_flags():
    flags = ["--config.data.format=blocks", "--config.data.path=x", "--config.data.schema="]
    built = build_run_config(apply_flags(load_config("criteo_10k"), flags))
    assert (built.data.factory, built.data.path, built.data.options) == ("blocks", "x", {})


def test_an_option_that_the_old_optimizer_did_not_have_is_still_refused(old_file):
    from wukong_jax.training.optimizers import build_dense_optimizer

    config = apply_flags(load_config(old_file), ["--config.optimizer.name=sgd"])
    with pytest.raises(UserError, match=r"config\.optimizer\.options\.weight_decay = 0\.1"):
        build_dense_optimizer(build_run_config(config).optimizer)


def test_a_config_of_today_stays_as_it_is():
    config = start_config()
    before = config.to_json_best_effort()
    upgrade_config(config)
    assert config.to_json_best_effort() == before
    built = build_run_config(load_config("quickstart"))
    assert compare_run_configs(built, build_run_config(load_config("quickstart"))) == ({}, {})


def test_a_norm_of_mlps_that_was_a_bool_is_named():
    config = {"model": {"options": {"mlp_norm": True, "over_options": {"mlp_norm": False, "mlp_biases": False}}}}
    upgrade_config(config)
    assert config["model"]["options"] == {
        "mlp_norm": "layer",
        "over_options": {"mlp_norm": "none", "mlp_biases": False},
    }
    fixed = load_config("quickstart")
    fixed.model.factory, fixed.model.options = "wukong_jax.models.dnn:build", ConfigDict({"mlp_norm": True})
    assert build_run_config(fixed).model.options["mlp_norm"] == "layer"
