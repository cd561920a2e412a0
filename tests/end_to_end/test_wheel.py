"""Builds the wheel, installs it into a fresh environment, and uses it from an empty folder without a checkout."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.repository import ROOT

pytest.importorskip("setuptools", minversion="70.1", reason="builds need setuptools 70.1; install the dev extra")
pytestmark = pytest.mark.slow

BUILT_FROM = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "wukong_jax", "dmt", "lattice", "configs")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Copies the project to build from, so that leftovers of a build do not get into the next wheel."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("environment"), str(wheel))


def make_environment(folder: Path, *package: str) -> Path:
    """Creates an environment with only one of our packages; dependencies come from the test environment."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/*/site-packages")
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path if "-packages" in path) + "\n")
    pip = (sys.executable, "-m", "pip", f"--python={folder / 'bin' / 'python'}")
    # as if nothing was installed: the test environment may hold the project itself
    run(*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed", *package)
    return folder / "bin"


def run(*command: str, folder: Path | None = None) -> str:
    """Runs a command in a folder, by default an empty one, without PYTHONPATH; returns its output."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "XLA_FLAGS")}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_a_wheel_puts_three_packages_and_no_configs_into_an_environment(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert tops == {"wukong_jax", "dmt", "lattice"}
    ours = {path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.[pj]*[yn]")}
    assert {name.removeprefix("wukong_jax/configs/") for name in names if "/configs/" in name} == ours
    schemas = [path.name for path in (ROOT / "wukong_jax" / "data" / "raw" / "schemas").glob("*.json")]
    assert all(f"wukong_jax/data/raw/schemas/{name}" in names for name in schemas)
    assert "wukong_jax/py.typed" in names


PROGRAM = """
import wukong_jax
assert {where!r} in wukong_jax.__file__, wukong_jax.__file__
from wukong_jax.config_files import list_shipped_configs, load_config
assert len(list_shipped_configs()) == {count}
for name in list_shipped_configs():
    load_config(name)
import wukong_jax.configs.dmt.frappe
print(load_config("quickstart", {{"training.steps": 3}}).training.steps)
"""


def test_shipped_configs_load_from_a_wheel(installed, tmp_path):
    program = PROGRAM.format(where=str(installed.parent), count=count_configs())
    assert run(str(installed / "python"), "-c", program, folder=tmp_path) == "3\n"


def test_shipped_configs_load_from_an_editable_install(source, tmp_path):
    binaries = make_environment(tmp_path / "environment", "--editable", str(source))
    program = PROGRAM.format(where=str(source), count=count_configs())
    assert run(str(binaries / "python"), "-c", program, folder=tmp_path) == "3\n"


def count_configs() -> int:
    return sum("\ndef get_config(" in path.read_text() for path in (ROOT / "configs").rglob("*.py"))


PREDICT = """
import json, wukong_jax
fields = {{f"field_{{i}}": [1, 2, 3] for i in range(16)}}
print(json.dumps(wukong_jax.open_run({run!r}).predict(fields).tolist()))
"""


def test_an_installed_package_trains_and_predicts(installed, tmp_path):
    small = ["--config.training.steps=20", "--config.data.options.train_rows=100000"]
    small += ["--config.data.options.validation_rows=4000", "--config.data.options.test_rows=4000"]
    run(str(installed / "wukong-jax"), "train", "--config=quickstart", "--workdir=W", *small, folder=tmp_path)
    assert json.loads((tmp_path / "W" / "summary.json").read_text())["step"] == 20
    probabilities = json.loads(run(str(installed / "python"), "-c", PREDICT.format(run="W"), folder=tmp_path))
    assert [len(row) for row in probabilities] == [1, 1, 1]  # one objective
    assert all(0 < probability < 1 for (probability,) in probabilities)
