"""Tests finding, loading and overriding of configs."""

import os
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import ConfigDict

from tests.repository import CONFIGS, ROOT
from wukong_jax.config import build_run_config
from wukong_jax.config_files import _find_shipped, list_shipped_configs, load_config
from wukong_jax.config_overrides import apply_flags
from wukong_jax.errors import UserError


@pytest.mark.parametrize(
    "name",
    [
        "public/frappe_wukong",
        "frappe_wukong",
        "configs/public/frappe_wukong.py",
        str(CONFIGS / "public" / "frappe_wukong.py"),
    ],
)
def test_a_shipped_config_is_found_by_path_and_by_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(name).name == "Wukong on Frappe"


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("configs/criteo_dmt.py", "dmt/criteo"),
        ("configs/dmt_planted.py", "dmt/planted"),
        ("configs/lattice_towers.py", "lattice/towers"),
        ("configs/scaling_small.py", "scaling/small"),
        ("configs/sketch_lattice.py", "lattice/sketch"),
        ("configs/census_income.py", "public/census_income"),
    ],
)
def test_commands_of_kept_results_find_their_config(old, now, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _find_shipped(old) == now


def test_a_path_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert load_config("quickstart").name == "Wukong"
    (tmp_path / "quickstart.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config(v):\n    return ConfigDict({'name': v})\n"
    )
    assert load_config("quickstart.py:mine").name == "mine"
    assert load_config("quickstart:logistic_regression").name == "logistic regression"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quikstart", "'quikstart': no such Python file and no shipped config; did you mean 'quickstart'"),
        ("configs/public/frappe.py", "no such Python file"),
        ("planted", "several of this name; give one of dmt/planted, lattice/planted, scaling/planted"),
        ("ctr_sets", "no shipped config"),  # what configs share is none itself
        ("quickstart:deepfm", "config = 'quickstart:deepfm': model 'deepfm': 'wukong' or"),
        ("frappe_wukong:x", "get_config\\(\\) takes no variant; leave ':x' out"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest_ones(name, words):
    with pytest.raises(UserError, match=words) as refused:
        load_config(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nWIDTHS = {}\ndef get_config():\n    return WIDTHS['widths']\n", r"mine\.py, line 4: KeyError: 'widths'"),
        ("x = 1\ny = = 2\n", r"mine\.py, line 2: SyntaxError: invalid syntax"),
        ("\nimport not_installed\n", r"mine\.py, line 2: ModuleNotFoundError: .*not_installed"),
        ("from wukong_jax.config import start_config\nstart_config().nme\n", r"mine\.py, line 2: AttributeError"),
        ("def get_config():\n    return {}\n", r"mine\.py: get_config\(\) returned dict; return one made by"),
        ("x = 1\n", r"mine\.py: has no get_config\(\)"),
        ("def get_config(size):\n    return size\n", r"mine\.py': get_config\(\) needs a variant"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_with_its_number(tmp_path, text, words):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        load_config(str(tmp_path / "mine.py"))
    assert "\n" not in str(refused.value)


def test_a_users_folder_of_configs_may_import_relatively_and_be_edited(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "base.py").write_text("from wukong_jax.configs import quickstart\nstart = quickstart.get_config\n")
    child = folder / "child.py"
    for rows in (100, 2000):
        child.write_text(
            f"from .base import start\ndef get_config():\n    config = start()\n"
            f"    config.data.options.train_rows = {rows}\n    return config\n"
        )
        assert load_config(str(child)).data.options.train_rows == rows


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training.stepz": 5}, "config.training.stepz = 5: unknown key 'stepz'; did you mean 'steps'"),
        ({"training.steps": "many"}, "config.training.steps = 'many': expected int, got str"),
        ({"training": 5}, "config.training = 5: expected ConfigDict"),
        ({"model.options.heads": 5}, "unknown key 'heads'; known there: fmb_tokens, layers"),
    ],
)
def test_a_wrong_override_is_one_line(overrides, words):
    with pytest.raises(UserError, match=words):
        load_config("quickstart", overrides)


def test_overrides_from_python_keep_types():
    config = load_config("quickstart", {"training.steps": 5, "optimizer.learning_rate": 1, "data.options.orders": [1]})
    config.data.options.order_shares = (1.0,)
    built = build_run_config(config)
    assert (built.training.steps, built.optimizer.learning_rate, built.data.options["orders"]) == (5, 1.0, [1])


@pytest.mark.parametrize(
    ("flag", "key", "value"),
    [
        ("--config.training.steps=5", "training.steps", 5),
        ("--config.optimizer.learning_rate=1", "optimizer.learning_rate", 1.0),
        ("--config.data.options.orders=(1,2,4)", "data.options.orders", (1, 2, 4)),
        ("--config.data.shuffle=false", "data.shuffle", False),
        ("--noconfig.data.shuffle", "data.shuffle", False),
        ("--config.optimizer.options={'beta1': 0.5}", "optimizer.options", {"beta1": 0.5}),
    ],
)
def test_a_flag_is_read_as_its_keys_type(flag, key, value):
    node = apply_flags(load_config("quickstart"), [flag])
    for name in key.split("."):
        node = node[name]
    node = node.to_dict() if isinstance(node, ConfigDict) else node
    assert node == value
    assert type(node) is type(value)


def test_wrong_flags_are_told_apart():
    with pytest.raises(UserError, match="unknown key 'stepz'; did you mean 'steps'"):
        apply_flags(load_config("quickstart"), ["--config.training.stepz=5"])
    with pytest.raises(flags.Error, match=r"--config\.training\.steps=many"):
        apply_flags(load_config("quickstart"), ["--config.training.steps=many"])
    with pytest.raises(flags.Error, match="workdir"):
        apply_flags(load_config("quickstart"), ["--workdir=x"])


def test_a_sweeps_run_can_be_overridden():
    config = apply_flags(load_config("scaling/small"), ["--config.run.data.planted.train_rows=100"])
    assert config.run.data.options.train_rows == 100


@pytest.mark.parametrize("name", list_shipped_configs())
def test_every_header_says_how_to_run_it_and_what_to_expect(name):
    header = (CONFIGS / f"{name}.py").read_text().split('"""')[1]
    for word in ("Command:", "Expected:", f"--config={name}"):
        assert word in header
    assert "Published:" not in header  # docs/public_sets.md has them
    named = {f"configs/{other}.py" for other in list_shipped_configs()}
    assert {word.strip("`(),.;:") for word in header.split() if word.startswith("configs/") and ".py" in word} <= named


def test_configs_are_a_package_in_a_checkout_and_no_module_is_loaded_twice(tmp_path):
    program = (
        "import wukong_jax.config_files as files\n"
        "package = files.import_shipped_configs()\n"
        "from wukong_jax.configs.public import frappe_baselines, frappe_wukong\n"
        "assert frappe_baselines.frappe_wukong is frappe_wukong\n"
        "import configs.public.avazu_x4 as other\n"  # as anybody may in a clone
        "assert other.get_config('dlrm').name == 'dlrm on Avazu_x4'\n"
        "print(package.__name__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "wukong_jax.configs", ran.stderr


def test_a_mistake_in_a_file_beside_a_config_names_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sizes_of_mine").mkdir()
    (tmp_path / "sizes_of_mine" / "table.py").write_text("def widths(sizes):\n\n    return sizes['widths']\n")
    (tmp_path / "mine.py").write_text(
        "from sizes_of_mine.table import widths\n\n\ndef get_config():\n    return widths({})\n"
    )
    with pytest.raises(UserError, match=r"^sizes_of_mine/table\.py, line 3: KeyError: 'widths'$"):
        load_config("mine.py")
    (tmp_path / "ends.py").write_text("def get_config():\n    raise SystemExit(3)\n")
    with pytest.raises(UserError, match=r"^ends\.py, line 2: SystemExit: 3$"):
        load_config("ends.py")
