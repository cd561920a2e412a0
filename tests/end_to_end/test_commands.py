"""Tests the scripts as a user runs them: files, output and errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.run_script import TINY, run_script, train_tiny
from wukong_jax.data.planted.clicks import PlantedClicks
from wukong_jax.data.planted.clicks_config import PlantedClicksConfig
from wukong_jax.metrics.auc import compute_auc

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train_tiny(workdir)
    return workdir


def test_a_run_leaves_what_the_contract_names(finished):
    for name in ("config.json", "metrics.jsonl", "summary.json", "report.html", "checkpoints", "tensorboard"):
        assert (finished / name).exists(), name
    summary = json.loads((finished / "summary.json").read_text())
    for key in ("step", "examples_seen", "examples_per_second", "wall_seconds", "dense_parameters"):
        assert summary[key] > 0, key
    assert summary["embedding_parameters"] == 4 * 11 * 4  # fields x (values + unknown) x width
    assert summary["train_flops_per_example"] > 0
    assert set(summary["test"]) >= {"auc", "log_loss", "normalized_entropy", "calibration"}
    assert summary["examples_seen"] == 40_000


def test_the_tiny_model_learns(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["test"]["normalized_entropy"] < 0.97
    assert summary["test"]["log_loss"] > summary["references"]["bayes"]["log_loss"]


def test_evaluate_agrees_with_the_training_run_to_the_last_digit(finished):
    code, out, err = run_script("evaluate.py", f"--workdir={finished}")
    assert code == 0, err
    scored = json.loads(out)
    expected = json.loads((finished / "summary.json").read_text())["test"]
    assert {key: scored[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ((), 2, "--config is missing"),
        (("--config=nowhere.py", "--workdir=x"), 1, "nowhere.py"),
        ((f"--config={TINY}", "--workdir=/proc/none"), 1, "--workdir = /proc/none"),
        ((f"--config={TINY}", "--wrkdir=x"), 2, "wrkdir"),
        ((f"--config={TINY}", "--workdir=x", "--config.training.batch_sise=3"), 1, "batch_sise"),
        ((f"--config={TINY}", "--workdir=x", "--config.training.batch_size=none"), 2, "batch_size"),
        (
            (f"--config={TINY}", "--workdir={tmp}", "--config.training.batch_size=-4"),
            1,
            "config.training.batch_size = -4",
        ),
        ((f"--config={TINY}", "--workdir={tmp}", "--config.mesh.hosts=3"), 1, "config.mesh.hosts = 3"),
        ((f"--config={TINY}", "--workdir={tmp}", "--config.model.factory=no.such:thing"), 1, "no.such:thing"),
        (
            (f"--config={TINY}", "--workdir={tmp}", "--config.model.options.layers=0"),
            1,
            "config.model.options.layers = 0",
        ),
        ((f"--config={TINY}", "--workdir={tmp}", "--config.reference_run=/nowhere"), 1, "/nowhere"),
    ],
)
def test_a_users_mistake_is_one_line_and_no_traceback(tmp_path, flags, code, words):
    flags = tuple(flag.replace("{tmp}", str(tmp_path / "run")) for flag in flags)
    got, _, err = run_script("train.py", *flags)
    last = err.strip().splitlines()[-1]
    assert got == code, err
    assert words in last
    assert last.startswith(("error: ", "usage error: "))
    assert "Traceback" not in err


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    workdir = tmp_path / "run"
    flags = (f"--config={TINY}", f"--workdir={workdir}", "--config.optimizer.learning_rate=1e30")
    code, _, err = run_script("train.py", *flags)
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert "is not finite" in last
    assert "learning_rate" in last
    assert not (workdir / "summary.json").exists()


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py", "prepare_data.py"])
def test_help_exits_with_zero(script):
    code, out, _ = run_script(script, "--help")
    assert code == 0
    assert "--" in out


def test_evaluating_a_folder_without_a_run_says_so(tmp_path):
    code, _, err = run_script("evaluate.py", f"--workdir={tmp_path}")
    assert code == 1
    assert "holds no run" in err
    assert "Traceback" not in err


def test_predictions_of_a_raw_file_agree_with_the_runs_own_test_metrics(tmp_path):
    rows = PlantedClicks(PlantedClicksConfig(fields=3, values_per_field=8, orders=(1,), order_shares=(1.0,)))
    columns, _ = rows.generate(0, 6000)
    for name, first, last in (("train", 0, 4000), ("validation", 4000, 5000), ("test", 5000, 6000)):
        table = np.concatenate([columns["labels"], columns["ids"]], axis=1)[first:last].astype(int)
        np.savetxt(tmp_path / f"{name}.csv", table, "%d", delimiter=",", header="click,a,b,c", comments="")
    schema = {
        "name": "made_up",
        "source": {"format": "csv"},
        "split": {"by": "file", "train": "train.csv", "validation": "validation.csv", "test": "test.csv"},
        "labels": [{"name": "click"}],
        "categorical": [{"name": "a"}, {"name": "b", "min_count": 50}, {"name": "c", "encoding": "hash", "rows": 5}],
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    config = tmp_path / "raw_config.py"
    config.write_text(
        TINY.read_text()
        .replace('config.data.factory = "planted_clicks"', 'config.data.factory = "raw"')
        .replace("config.data.options = planted", f"config.data.path, config.data.schema = {str(tmp_path)!r}, SCHEMA")
        .replace("def get_config", f"SCHEMA = {str(tmp_path / 'schema.json')!r}\n\n\ndef get_config")
    )
    workdir, output = tmp_path / "run", tmp_path / "scores.csv"
    code, _, err = run_script("train.py", f"--config={config}", f"--workdir={workdir}")
    assert code == 0, err
    flags = (f"--workdir={workdir}", f"--input={tmp_path / 'test.csv'}", f"--output={output}")
    code, _, err = run_script("predict.py", *flags)
    assert code == 0, err
    scores = np.loadtxt(output, skiprows=1)
    labels = columns["labels"][5000:, 0]
    expected = json.loads((workdir / "summary.json").read_text())["test"]
    code, _, err = run_script("predict.py", *flags[:2], f"--output={tmp_path / 'on_three.csv'}", devices=3)
    assert code == 0, err
    np.testing.assert_allclose(np.loadtxt(tmp_path / "on_three.csv", skiprows=1), scores, rtol=1e-6)
    log_loss = -np.mean(np.log(np.where(labels > 0, scores, 1 - scores)))
    assert f"{compute_auc(labels, scores):.6f}" == f"{expected['auc']:.6f}"
    assert f"{log_loss:.6f}" == f"{expected['log_loss']:.6f}"
