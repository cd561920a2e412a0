"""Tests that two processes never write one folder at a time, and that a killed one leaves nothing behind."""

import os
import subprocess
import sys

import pytest

from tests.repository import ROOT
from wukong_jax.errors import BusyError
from wukong_jax.files.file_lock import hold_lock
from wukong_jax.files.whole_folder import lock_folder, write_whole_folder

_WRITE = """
import sys, time
from pathlib import Path
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
try:
    with write_whole_folder(Path(sys.argv[1]), replace=True) as aside:
        for number in range(20):
            (aside / f"{number}").write_text(sys.argv[2])
            if number == 0:
                print("writing", flush=True)
            time.sleep(0.05)
    print("wrote")
except UserError as error:
    print(error)
"""

_WAIT = """
import sys
from pathlib import Path
from wukong_jax.files.whole_folder import lock_folder
with lock_folder(Path(sys.argv[1]), wait=True):
    print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
"""


def start(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_second_process_is_refused_and_a_third_one_waits(tmp_path):
    first = start(_WRITE, tmp_path / "out", "first")
    assert first.stdout.readline() == "writing\n"
    second, third = start(_WRITE, tmp_path / "out", "second"), start(_WAIT, tmp_path / "out")
    refusal = second.communicate(timeout=60)[0]
    assert "out: another process is writing this folder" in refusal
    assert refusal.count("\n") == 1
    assert first.communicate(timeout=60)[0] == "wrote\n"
    assert third.communicate(timeout=60)[0] == f"{sorted(map(str, range(20)))}\n"
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"first"}
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    killed = start(_WRITE, tmp_path / "out", "half")
    assert killed.stdout.readline() == "writing\n"
    killed.kill()
    killed.communicate(timeout=60)
    assert sorted(os.listdir(tmp_path)) == ["out.lock", "out.writing"]
    with write_whole_folder(tmp_path / "out") as aside:
        (aside / "whole").write_text("x")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["whole"]


def test_a_folder_whose_replacement_was_killed_between_two_renames_comes_back(tmp_path):
    (tmp_path / "out.replaced").mkdir()
    (tmp_path / "out.replaced" / "old").write_text("x")
    with pytest.raises(ValueError, match="half"), write_whole_folder(tmp_path / "out", replace=True):
        raise ValueError("half")
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["old"]


def test_a_lock_that_removes_its_file_is_still_exclusive(tmp_path):
    """A process that opened the file before it was deleted must not share the lock with one that made a new file."""
    with lock_folder(tmp_path / "out"), pytest.raises(BusyError), lock_folder(tmp_path / "out"):
        pass
    deleted = (tmp_path / "out.lock").open("w")
    (tmp_path / "out.lock").unlink()
    with deleted, hold_lock(tmp_path / "out.lock", "busy", remove=True):
        assert (tmp_path / "out.lock").exists()
        with pytest.raises(BusyError), hold_lock(tmp_path / "out.lock", "busy", remove=True):
            pass
    assert os.listdir(tmp_path) == []
