"""Tests that several processes train, save, go on with and score the run that one does, and either the other's."""

import csv
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.multi_process.counted_reads import list_reads
from tests.multi_process.processes import LANES, launch, name_reads, train
from wukong_jax.errors import UserError
from wukong_jax.runs.open_run import open_run

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


def assert_same(workdir: Path, other: Path, devices: int, binned: bool = False) -> None:
    """Compares within 1e-6 in test AUC; few steps, because lazy Adam amplifies rounding tenfold every few of them."""
    mine, theirs = read_summary(workdir), read_summary(other)
    for key in ("step", "scored_step", "best_step", "examples_seen", "stopped_because", "training_rows"):
        assert mine[key] == theirs[key], key
    assert mine["devices"] == devices
    assert mine["test"].keys() == theirs["test"].keys()
    assert (mine["test"]["auc_error_bound"] > 0) == binned
    assert abs(mine["test"]["auc"] - theirs["test"]["auc"]) < 1e-6 + mine["test"]["auc_error_bound"]
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


def test_each_of_two_processes_reads_its_share_of_the_blocks(two_by_two, alone):
    """A block is cut where a lane or the range of a device ends; there are four of both."""
    for split in ("train", "validation", "test"):
        reads, whole = (list_reads(name_reads(workdir), split) for workdir in (two_by_two, alone))
        assert set(reads) == {0, 1}
        assert reads[0]
        assert reads[1]
        assert len(reads[0] & reads[1]) <= LANES
        if split != "train":  # of which only a part is trained on, and how much is read ahead differs
            assert reads[0] | reads[1] == whole[0]


def test_one_process_goes_on_with_the_checkpoint_of_two(two_by_two, alone_to_the_end, tmp_path):
    shutil.copytree(two_by_two, tmp_path / "run")
    train(tmp_path / "run", 1, 1, 2 * STEPS)
    assert_same(tmp_path / "run", alone_to_the_end, 1)


def test_two_processes_go_on_with_the_checkpoint_of_one_and_split_its_weights(alone, alone_to_the_end, tmp_path):
    shutil.copytree(alone, tmp_path / "run")
    split = ("--config.mesh.fsdp=all", "--config.mesh.fsdp_min_size=64")  # dense weights over all four devices
    binned = "--config.training.exact_auc_rows=10000"  # test metrics are summed on the devices
    train(tmp_path / "run", 2, 2, 2 * STEPS, *split, binned)
    assert_same(tmp_path / "run", alone_to_the_end, 4, binned=True)


def test_two_processes_evaluate_as_they_trained_and_print_one_object(two_by_two, tmp_path):
    scores = tmp_path / "scores.csv"
    done = launch(2, 1, "evaluate", f"--workdir={two_by_two}", f"--predictions={scores}")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found, expected = json.loads(line.removeprefix("[0] ")), read_summary(two_by_two)["test"]
    assert found.pop("split") == "test"
    assert abs(found["auc"] - expected["auc"]) < 1e-6
    assert abs(found["log_loss"] - expected["log_loss"]) < 1e-6
    rows = list(csv.DictReader(scores.open(encoding="utf-8")))
    assert [row["row"] for row in rows] == list(map(str, range(20_000)))
    clicked = np.asarray([float(row["click/label"]) for row in rows])
    likely = np.asarray([float(row["click/score"]) for row in rows])
    log_loss = -np.mean(clicked * np.log(likely) + (1 - clicked) * np.log(1 - likely))
    assert abs(log_loss - expected["log_loss"]) < 1e-6


def test_two_processes_predict_as_one(two_by_two, tmp_path):
    columns = ["dense_0", "dense_1", *(f"field_{i}" for i in range(4))]
    random = np.random.default_rng(0)
    rows = [[*random.normal(size=2).round(3), *random.integers(0, 10, 4)] for _ in range(1_500)]  # and half a batch
    source, target = tmp_path / "rows.csv", tmp_path / "scores.csv"
    source.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]) + "\n")
    done = launch(2, 1, "predict", f"--workdir={two_by_two}", f"--input={source}", f"--output={target}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"[0] wrote 1,500 rows to {target}\n"
    found = [float(line) for line in target.read_text().splitlines()[1:]]
    np.testing.assert_allclose(found, open_run(two_by_two).predict(source)[:, 0], rtol=1e-6)


def test_a_flipped_bit_in_the_rows_of_several_processes_is_found(two_by_two, tmp_path):
    shutil.copytree(two_by_two, tmp_path / "run")
    stored = list((tmp_path / "run" / "checkpoints" / "best").rglob("stacks/**/d/*"))
    whole_tables = read_tables(tmp_path / "run")
    refused = 0
    for file in stored:
        whole = file.read_bytes()
        for place in (len(whole) // 3, len(whole) // 2, 2 * len(whole) // 3):
            flipped = bytearray(whole)
            flipped[place] ^= 1
            file.write_bytes(flipped)
            try:  # some bytes belong to nodes of tensorstore that are not in use any more
                jax.tree.map(np.testing.assert_array_equal, read_tables(tmp_path / "run"), whole_tables)
            except UserError as error:
                refused += "damaged" in str(error)
        file.write_bytes(whole)
    assert refused >= 3


def read_tables(workdir: Path):
    opened = open_run(workdir)
    return opened.run.exchange.export_tables(opened.state.tables)
