"""Tests that opening a folder of somebody else runs none of its code."""

import json
import shutil
import sys

import pytest

from tests.runs.test_train_run import make_config, silent
from wukong_jax.api import train
from wukong_jax.cli.main import main
from wukong_jax.config import build_run_config, run_config_to_json
from wukong_jax.errors import UserError
from wukong_jax.factories import known_factories_only, load_factory
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.train_run import train_run

PARTS = ("model", "loss", "optimizer", "exchange", "data", "data.join")
FOREIGN = (
    "os:system",
    "posix:system",
    "stranger:build",
    "stranger.inner:build",
    "builtins:exec",
    "wukong_jax_evil:build",
)
NO_FACTORY = (
    "wukong_jax.files.whole_folder:shutil",
    "wukong_jax.config_files:load_config",
    "wukong_jax.runs.trackers:importlib",
    "wukong_jax.something:os.system",
    "dmt.towers:json",
    "lattice:os",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_run(make_config(), folder, silent)
    return folder


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A package on the path that leaves a trace when it is imported or called; returns the trace's path."""
    package, trace = tmp_path / "path" / "stranger", tmp_path / "trace"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        f"from os import system\nopen({str(trace)!r}, 'w')\n"
        "from wukong_jax.models.logistic_regression import build as build_ours\n"
        "def build(options, shape):\n    return build_ours({}, shape)\n"
    )
    (package / "inner.py").write_text("from stranger import build\n")
    monkeypatch.syspath_prepend(package.parent)
    for name in ("stranger", "stranger.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("wukong_jax.factories._given", set())
    return trace


def change(trained, folder, part, factory):
    shutil.copytree(trained, folder)
    config = json.loads((folder / "config.json").read_text())
    node = config
    for name in part.split("."):
        node = node[name]
    node["factory"] = factory
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("part", PARTS)
def test_a_foreign_factory_in_a_folder_is_refused_before_its_module_is_imported(trained, stranger, tmp_path, part):
    for index, name in enumerate((*FOREIGN, *NO_FACTORY)):
        folder = change(trained, tmp_path / f"run_{index}", part, name)
        with pytest.raises(UserError, match=f"^config.{part}.factory = {name!r}: ") as refused:
            open_run(folder)
        assert "\n" not in str(refused.value)
        assert ("--allow_factories=" in str(refused.value)) == (name in FOREIGN)
    assert not stranger.exists()


def test_a_command_that_opens_a_folder_says_how_to_allow_its_code(trained, stranger, tmp_path, capsys):
    folder = change(trained, tmp_path / "run", "model", "stranger:build")
    with pytest.raises(SystemExit) as ended:
        main("evaluate", [f"--workdir={folder}"])
    assert ended.value.code == 1
    assert "give --allow_factories=stranger" in capsys.readouterr().err
    assert not stranger.exists()
    main("evaluate", [f"--workdir={folder}", "--allow_factories=stranger"])
    scored = json.loads(capsys.readouterr().out)
    assert scored["auc"] == open_run(trained).evaluate("test")["auc"]
    assert stranger.exists()


def test_what_an_allowed_package_imports_is_not_allowed(trained, stranger, tmp_path):
    folder = change(trained, tmp_path / "run", "model", "stranger:system")
    with pytest.raises(UserError, match="is not a function of that package"):
        open_run(folder, allow_factories=["stranger"])
    with pytest.raises(UserError, match="not the name of a package"):
        open_run(folder, allow_factories=["stranger:system"])


def test_a_factory_named_in_options_is_checked_too(trained, stranger, tmp_path):
    folder = change(trained, tmp_path / "run", "model", "dmt.model:build")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["options"] = {"towers": 2, "over": "stranger:build"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="over = 'stranger:build': the run's folder names code of another package"):
        open_run(folder)
    assert not stranger.exists()


def test_training_does_not_run_the_code_of_the_folder_it_resumes(trained, stranger, tmp_path):
    folder = change(trained, tmp_path / "run", "data", "stranger:build")
    with pytest.raises(UserError, match="stranger:build"):
        train_run(make_config(), folder, silent)
    assert not stranger.exists()


def test_a_factory_of_the_users_own_config_is_trusted_in_the_same_process(stranger, tmp_path):
    config = json.loads(run_config_to_json(make_config()))
    config["model"] = {"factory": "stranger:build", "options": {}}
    train(build_run_config(config), tmp_path / "run", silent)
    assert stranger.exists()
    assert open_run(tmp_path / "run").config.model.factory == "stranger:build"
    train(build_run_config(config), tmp_path / "run", silent)


def test_contexts_add_up_and_end():
    with known_factories_only(["json"]), known_factories_only(["os"]):
        assert load_factory("k", "json:loads")
    with known_factories_only(), pytest.raises(UserError, match="another package"):
        load_factory("k", "csv:reader")
    assert load_factory("k", "csv:writer")
