"""Tests that a stopped and resumed run ends in the same state as an uninterrupted one."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.end_to_end.run_script import TINY, read_metrics, run_script, start_script, train_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_tiny(workdir)
    return workdir


def load_arrays(workdir: Path) -> dict[str, np.ndarray]:
    manager = ocp.CheckpointManager((workdir / "checkpoints" / "latest").absolute(), item_names=("dense", "tables"))
    step = manager.latest_step()
    args = ocp.args.Composite(dense=ocp.args.StandardRestore(), tables=ocp.args.StandardRestore())
    restored = manager.restore(step, args=args)
    flat: dict[str, np.ndarray] = {"step": np.asarray(step)}

    def walk(prefix, node):
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}/{key}", value)
        elif isinstance(node, list | tuple):
            for index, value in enumerate(node):
                walk(f"{prefix}/{index}", value)
        elif node is not None:
            flat[prefix] = np.asarray(node)

    walk("dense", dict(restored["dense"]))
    walk("tables", dict(restored["tables"]))
    manager.close()
    return flat


def assert_same_run(workdir: Path, whole: Path) -> None:
    assert read_metrics(workdir) == read_metrics(whole)
    mine, theirs = load_arrays(workdir), load_arrays(whole)
    assert mine.keys() == theirs.keys()
    assert len(mine) > 10
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (workdir, whole)]
    for key in ("step", "best_step", "examples_seen", "test", "validation", "stopped_because"):
        assert summaries[0][key] == summaries[1][key], key


def stop_after_lines(workdir: Path, lines: int, number: signal.Signals) -> int:
    """Starts the tiny run, sends a signal once metrics.jsonl has the given number of lines, returns the exit code."""
    process = start_script("train.py", f"--config={TINY}", f"--workdir={workdir}")
    deadline = time.monotonic() + 300
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= lines:
            process.send_signal(number)
            break
        time.sleep(0.01)
    process.communicate(timeout=300)
    return process.returncode


def test_killed_at_any_moment_and_started_again_equals_never_stopped(whole_run, tmp_path):
    workdir = tmp_path / "run"
    for lines in (1, 4, 8):
        assert stop_after_lines(workdir, lines, signal.SIGKILL) == -signal.SIGKILL
    train_tiny(workdir)
    assert_same_run(workdir, whole_run)


def test_sigterm_saves_exits_143_and_the_same_command_goes_on(whole_run, tmp_path):
    workdir = tmp_path / "run"
    assert stop_after_lines(workdir, 3, signal.SIGTERM) == 143
    assert not (workdir / "summary.json").exists()
    train_tiny(workdir)
    assert_same_run(workdir, whole_run)


def test_a_finished_run_started_again_changes_nothing(whole_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole_run, workdir)
    train_tiny(workdir)
    assert_same_run(workdir, whole_run)


def test_more_steps_than_before_equals_as_many_from_the_start(whole_run, tmp_path):
    workdir = tmp_path / "run"
    # Step 48 is an evaluation of the whole run too, so nothing happens there that would not have.
    train_tiny(workdir, "--config.training.steps=48")
    code, _, err = run_script("train.py", f"--config={TINY}", f"--workdir={workdir}")
    assert code == 0, err
    assert "config.training.steps changed from 48 to None" in err
    mine, theirs = load_arrays(workdir), load_arrays(whole_run)
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_other_mathematics_in_the_same_folder_is_refused_by_name(whole_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole_run, workdir)
    flags = (f"--config={TINY}", f"--workdir={workdir}", "--config.training.batch_size=256")
    code, _, err = run_script("train.py", *flags)
    assert code == 1
    assert "config.training.batch_size = 256" in err
    assert "512" in err
    assert "Traceback" not in err


def test_eight_devices_train_as_one_does(tmp_path):
    # float32 tables: stochastic rounding would turn the last bit of a sum into a whole bfloat16 step. Ten steps: sums
    # over devices add in another order, and Adam on nearly zero gradients amplifies rounding tenfold every few steps.
    # Logits start near 0, or ten steps would not lower the loss by more than the batches differ.
    flags = ("--config.embeddings.dtype=float32", "--config.training.steps=10", "--config.training.log_every_steps=1")
    flags = (*flags, "--config.training.start_at_rate=false")
    one = train_tiny(tmp_path / "one", *flags)
    many = train_tiny(tmp_path / "many", *flags, "--config.mesh.hosts=2", devices=8)
    assert (one["devices"], many["devices"]) == (1, 8)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)[:10]] for name in ("one", "many")]
    assert losses[0][0] - losses[0][-1] > 1e-3  # it has learnt something to differ in
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    np.testing.assert_allclose(many["test"]["log_loss"], one["test"]["log_loss"], rtol=1e-4)
    # Trained on eight devices, scored where there is one.
    code, out, err = run_script("evaluate.py", f"--workdir={tmp_path / 'many'}")
    assert code == 0, err
    np.testing.assert_allclose(json.loads(out)["log_loss"], many["test"]["log_loss"], rtol=1e-6)
