"""Tests that several processes train the run that one trains, and that either goes on with the other's checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.multi_process.processes import train

STEPS = 6


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("two_by_two") / "run"
    train(workdir, 2, 2, STEPS)
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("alone") / "run"
    train(workdir, 1, 1, STEPS)
    return workdir


@pytest.fixture(scope="module")
def alone_to_the_end(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(workdir, 1, 1, 2 * STEPS)
    return workdir


def read_lines(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_summary(workdir: Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


def assert_same(workdir: Path, other: Path, devices: int) -> None:
    """Compares within 1e-6 in test AUC; few steps, because lazy Adam amplifies rounding tenfold every few of them."""
    mine, theirs = read_summary(workdir), read_summary(other)
    for key in ("step", "scored_step", "best_step", "examples_seen", "stopped_because", "training_rows"):
        assert mine[key] == theirs[key], key
    assert mine["devices"] == devices
    assert mine["test"].keys() == theirs["test"].keys()
    assert abs(mine["test"]["auc"] - theirs["test"]["auc"]) < 1e-6
    assert abs(mine["test"]["log_loss"] - theirs["test"]["log_loss"]) < 1e-6
    assert mine["test"]["rows"] == theirs["test"]["rows"]
    lines, others = read_lines(workdir), read_lines(other)
    assert [(line["split"], line["step"]) for line in lines] == [(line["split"], line["step"]) for line in others]
    key = {"train": "loss", "validation": "log_loss", "test": "log_loss"}
    np.testing.assert_allclose(
        [line[key[line["split"]]] for line in lines], [line[key[line["split"]]] for line in others], rtol=2e-6
    )


def test_two_processes_train_as_one_with_as_many_devices(two_by_two, tmp_path):
    train(tmp_path / "run", 1, 4, STEPS)
    assert_same(two_by_two, tmp_path / "run", 4)


def test_two_processes_train_as_one_device(two_by_two, alone):
    assert_same(two_by_two, alone, 4)
    assert read_lines(alone)[0]["loss"] - read_lines(alone)[-3]["loss"] > 1e-3  # it has learnt something to differ in


def test_one_process_goes_on_with_the_checkpoint_of_two(two_by_two, alone_to_the_end, tmp_path):
    shutil.copytree(two_by_two, tmp_path / "run")
    train(tmp_path / "run", 1, 1, 2 * STEPS)
    assert_same(tmp_path / "run", alone_to_the_end, 1)


def test_two_processes_go_on_with_the_checkpoint_of_one(alone, alone_to_the_end, tmp_path):
    shutil.copytree(alone, tmp_path / "run")
    train(tmp_path / "run", 2, 2, 2 * STEPS)
    assert_same(tmp_path / "run", alone_to_the_end, 4)
