"""Tests that two processes train on a log as one does, one going on where they ended."""

import json

import numpy as np
import polars as pl
import pytest

from tests.multi_process.processes import ROOT, launch
from tests.online.small_log import write_days
from wukong_jax.runs.record import read_metrics

CONFIG = ROOT / "tests" / "multi_process" / "log_config.py"


def train(log, workdir, processes, devices):
    words = (f"--config={CONFIG}", f"--workdir={workdir}", f"--config.data.path={log}", "--rows=12", "--candidates=1")
    schema = f"--config.data.schema={log.parent / 'schema.json'}"
    done = launch(processes, devices, "train_online", *words, schema)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_run(workdir):
    """Returns the scores by day, the id maps, and the last day's scored rows in order of their logits."""
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == "progressive"]
    newest = max((workdir / "data").iterdir(), key=lambda folder: int(folder.name))
    maps = {file.name: pl.read_parquet(file).rows() for file in sorted((newest / "id_map").iterdir())}
    scored = np.load(newest / "scored_rows.npz")
    order = np.argsort(scored["logits"][:, 0], kind="stable")
    return lines, maps, {name: scored[name][order] for name in scored}


def test_two_processes_train_on_a_log_as_one_does_and_one_goes_on(tmp_path):
    log = write_days(tmp_path / "log", range(3))
    train(log, tmp_path / "one", 1, 2)
    output = train(log, tmp_path / "two", 2, 1)
    assert output.count("rows scored before they were trained on") == 1  # the lead alone prints
    write_days(log, range(3, 5))
    train(log, tmp_path / "two", 1, 2)
    train(log, tmp_path / "one", 2, 1)
    (lines, maps, scored), (other_lines, other_maps, other_scored) = (
        read_run(tmp_path / name) for name in ("one", "two")
    )
    assert len(lines) == 5
    assert maps == other_maps
    for line, other in zip(lines, other_lines, strict=True):
        assert line["period"] == other["period"]
        for name in ("log_loss", "auc") if "log_loss" in line else ():
            assert line[name] == pytest.approx(other[name], abs=1e-6), (line["period"], name)
    for name, array in scored.items():
        np.testing.assert_allclose(other_scored[name], array, rtol=1e-5, atol=1e-5)
    summary = json.loads((tmp_path / "two" / "summary.json").read_text(encoding="utf-8"))
    assert summary["periods"] == 5
    assert summary["progressive"]["rows"] == 4 * 150
