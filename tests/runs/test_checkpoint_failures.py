"""Tests that a disk that cannot be written is one line and loses nothing, and that damaged arrays are never used."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.end_to_end.run_script import read_metrics, run_script
from tests.runs.test_train_run import make_config, silent
from wukong_jax.config import build_run_config
from wukong_jax.config_files import load_config
from wukong_jax.errors import UserError
from wukong_jax.runs import checkpoints as checkpoints_module
from wukong_jax.runs.checkpoint_content import check_content, compute_digests
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.open_run import open_run
from wukong_jax.runs.train_run import train_run

HASHED = Path(__file__).with_name("hashed_clicks_config.py")
FULL = "RESOURCE_EXHAUSTED: Error writing 'c.rows/0.0' ... [OS error 28: ENOSPC No space left on device] [source ...]"
READ_ONLY = "UNAVAILABLE: Failed to create directory [OS error 30: EROFS Read-only file system]"


@contextlib.contextmanager
def small_disk(folder, mebibytes):
    """Mounts a small file system in memory."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_hashed(folder):
    """Writes rows.csv and its schema, for `HASHED`; returns the config's data keys."""
    hashed = {"name": "id", "encoding": "hash", "rows": 200_000}
    schema = {"name": "made_up", "source": {"format": "csv"}, "labels": [{"name": "y"}], "categorical": [hashed]}
    schema["dense"] = [{"name": "x"}]
    (folder / "schema.json").write_text(json.dumps(schema))
    (folder / "rows.csv").write_text("y,id,x\n" + "".join(f"{i % 2},{i % 97},{i % 7}\n" for i in range(400)))
    return {"path": str(folder / "rows.csv"), "schema": str(folder / "schema.json")}


def test_a_flipped_bit_in_a_stored_table_is_found_and_not_scored(tmp_path):
    changes = {f"data.{key}": value for key, value in write_hashed(tmp_path).items()}
    train_run(build_run_config(load_config(str(HASHED), {**changes, "mesh.chips": 1})), tmp_path / "run", silent)
    stored = max(
        (tmp_path / "run" / "checkpoints" / "best").rglob("tables/**/d/*"), key=lambda file: file.stat().st_size
    )
    content = bytearray(stored.read_bytes())
    assert len(content) > 1_000_000
    for place in (len(content) // 3, len(content) // 2):
        content[place] ^= 4
        stored.write_bytes(content)
        with pytest.raises(UserError, match="damaged") as refused:
            open_run(tmp_path / "run")
        assert "\n" not in str(refused.value)
        content[place] ^= 4
    stored.write_bytes(content)
    assert open_run(tmp_path / "run").evaluate("test")


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(tmp_path):
    flags = [f"--config.data.{key}={value}" for key, value in write_hashed(tmp_path).items()]
    flags += [f"--config={HASHED}"]
    code, _, err = run_script("train.py", *flags, f"--workdir={tmp_path / 'whole'}")
    assert code == 0, err
    disk = tmp_path / "disk"
    with small_disk(disk, 4):
        code, _, err = run_script("train.py", *flags, f"--workdir={disk / 'run'}")
        assert code == 1
        assert "Traceback" not in err
        assert [line for line in err.splitlines() if "cannot write (no space left on device)" in line] == [
            err.splitlines()[-1]
        ]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        code, _, err = run_script("train.py", *flags, f"--workdir={disk / 'run'}")
        assert code == 0, err
        assert read_metrics(disk / "run") == read_metrics(tmp_path / "whole")


@pytest.mark.parametrize("method", ["save", "wait_until_finished", "close"])
@pytest.mark.parametrize("error", [ValueError(FULL), RuntimeError(READ_ONLY), OSError(28, "No space left on device")])
def test_what_a_writer_raises_is_one_line_and_the_run_resumes(tmp_path, monkeypatch, method, error):
    open_manager, calls = checkpoints_module.open_manager, []

    def open_failing(*arguments, **options):
        manager = open_manager(*arguments, **options)
        if options.get("read_only") or manager is None:
            return manager
        work = getattr(manager, method)

        def fail_the_second_time(*args, **kwargs):
            calls.append(method)
            done = work(*args, **kwargs)
            if len(calls) >= 2:
                raise error
            return done

        monkeypatch.setattr(manager, method, fail_the_second_time)
        return manager

    monkeypatch.setattr(checkpoints_module, "open_manager", open_failing)
    with pytest.raises(UserError, match=r"checkpoints/(latest|best): cannot write \((no space|read-only)") as refused:
        train_run(make_config(), tmp_path / "run", silent)
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    assert train_run(make_config(), tmp_path / "run", silent)["step"] == 8


def test_a_defect_while_saving_keeps_its_exception(tmp_path, monkeypatch):
    def fail(self, which):
        raise ValueError("a defect")

    monkeypatch.setattr(Checkpoints, "latest_step", fail)
    with pytest.raises(ValueError, match="a defect"):
        train_run(make_config(), tmp_path / "run", silent)


@pytest.mark.parametrize("array", [np.arange(20_001.0), np.zeros((3, 5), np.float32), np.arange(3, dtype=np.int8)])
def test_a_digest_sees_a_flipped_bit_and_swapped_pieces(array):
    saved = json.loads(json.dumps(compute_digests({"tables": {"c": {"rows": array}}})))
    check_content({"tables": {"c": {"rows": jax.numpy.asarray(array) if array.dtype != float else array}}}, saved)
    bits = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    for position in (0, len(bits) // 2, len(bits) - 1):
        damaged = bits.copy()
        damaged[position] ^= 4
        with pytest.raises(UserError, match="tables/c/rows is damaged"):
            check_content({"tables": {"c": {"rows": damaged.view(array.dtype).reshape(array.shape)}}}, saved)
    if len(bits) > 2 * 65_536:
        swapped = np.concatenate([bits[65_536:131_072], bits[:65_536], bits[131_072:]])
        with pytest.raises(UserError, match="is damaged"):
            check_content({"tables": {"c": {"rows": swapped.view(array.dtype)}}}, saved)
