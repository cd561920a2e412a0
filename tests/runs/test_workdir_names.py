"""Tests that a run works in a folder of any name, and that paths where it could not are refused before training."""

import shutil

import numpy as np
import pytest

from tests.runs.test_train_run import make_config, silent
from wukong_jax.errors import UserError
from wukong_jax.files import plain_path as plain_path_module
from wukong_jax.files.plain_path import plain_path
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.prediction import predict_file
from wukong_jax.runs.train_run import train_run

NAMES = ["lr=[0.1]", "L\u00e4ufe mit [x] *?**{}#%~ \u4e2d\u6587 ", "back\\slash", "new\nline", "gs:"]


def train_twice(folder):
    """Trains a run, then resumes it."""
    train_run(make_config(steps=4), folder, silent)
    assert train_run(make_config(), folder, silent)["step"] == 8


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run in a folder of plain name, and raw rows for it."""
    folder = tmp_path_factory.mktemp("plain")
    train_twice(folder / "run")
    columns = [column.name for column in open_run(folder / "run").schema.id_columns]
    lines = [",".join(columns), *(",".join(str(1 + (i + j) % 4) for j in range(len(columns))) for i in range(7))]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_run_works_under_any_name(plain, tmp_path, name):
    (tmp_path / "sibling").mkdir()  # a pattern in the name must not reach it
    folder = tmp_path / name / "run"
    train_twice(folder)
    here, there = open_run(folder), open_run(plain / "run")
    assert here.evaluate("test") == there.evaluate("test")
    assert predict_file(here, plain / "rows.csv", folder / "scores.csv") == 7
    np.testing.assert_array_equal(here.predict(plain / "rows.csv"), there.predict(plain / "rows.csv"))
    assert {path.name for path in tmp_path.iterdir()} == {"sibling", name}
    assert not list((tmp_path / "sibling").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_moved_is_opened_under_any_name(plain, tmp_path, name):
    shutil.copytree(plain / "run", tmp_path / name)
    assert open_run(tmp_path / name).evaluate("test") == open_run(plain / "run").evaluate("test")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "names no folder"),
        ("~/run", "did not expand '~'"),
        ("x/" * 1900, "bytes, too long"),
        ("y" * 300, "name too"),
    ],
)
def test_a_path_that_cannot_hold_a_run_is_refused_before_anything_is_written(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"(?i)^--workdir = .*{words}"):
        train_run(make_config(), path, silent)
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"^--workdir = "):
            train_run(make_config(), path, silent)


def test_without_a_plain_path_an_odd_name_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_path_module, "_OPEN_FOLDERS", tmp_path / "none")  # as on macOS
    with pytest.raises(UserError, match=r"checkpoints cannot be stored under a path with '\['; choose another name"):
        train_run(make_config(), tmp_path / "a[1]", silent)
    assert not list(tmp_path.iterdir())


def test_a_plain_path_leads_to_the_folder_as_long_as_it_is_held(tmp_path):
    odd = tmp_path / "[1]"
    odd.mkdir()
    with plain_path(odd) as path:
        (path / "x").touch()
        assert "[" not in str(path)
    assert (odd / "x").exists()
    assert not (path / "x").exists()
