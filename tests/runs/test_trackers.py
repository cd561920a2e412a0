"""Tests trackers as listeners of a run, with fake packages that record their calls, and with MLflow if installed."""

import json
import sys
import types

import pytest

from tests.runs.test_train_run import make_config, silent
from wukong_jax.config import RunConfig, build_run_config, compare_run_configs, run_config_to_json
from wukong_jax.errors import UserError
from wukong_jax.runs.train_run import train_run


class Calls:
    """Replaces a tracker's package; records calls with their arguments."""

    def __init__(self, run_id):
        self.calls, self.run_id = [], run_id
        self.id = run_id
        self.info = types.SimpleNamespace(run_id=run_id)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def record(*arguments, **named):
            self.calls.append((name, arguments, named))
            return self

        return record

    def names(self):
        return [name for name, _, _ in self.calls]

    def numbers(self, name):
        return [(named["step"], arguments[0]) for called, arguments, named in self.calls if called == name]


NAMES = {
    "wandb": ("init", "log", "finish"),
    "mlflow": ("start_run", "log_metrics", "end_run"),
    "trackio": ("init", "log", "finish"),
}


def train_tracked(folder, tracker, steps, monkeypatch) -> Calls:
    package = Calls("id-7")
    monkeypatch.setitem(sys.modules, tracker, package)
    train_run(make_config(steps=steps, trackers=[tracker]), folder / "run", silent)
    return package


@pytest.mark.parametrize("tracker", NAMES)
def test_a_tracker_gets_every_line_under_tensorboard_s_names(tracker, tmp_path, monkeypatch):
    start, log, end = NAMES[tracker]
    package = train_tracked(tmp_path, tracker, 4, monkeypatch)
    assert package.names()[0] == start
    assert package.names()[-1] == end
    lines = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    sent = package.numbers(log)
    assert [step for step, _ in sent] == [line["step"] for line in lines]
    assert sent[0][1]["train/loss"] == lines[0]["loss"]
    assert "perf/examples_per_second" in sent[0][1]
    assert sent[-1][1]["eval/test/auc"] == lines[-1]["auc"]


@pytest.mark.parametrize(("tracker", "key"), [("wandb", "id"), ("mlflow", "run_id"), ("trackio", "name")])
def test_a_run_that_goes_on_continues_its_tracked_run(tracker, key, tmp_path, monkeypatch):
    _, log, _ = NAMES[tracker]
    train_tracked(tmp_path, tracker, 4, monkeypatch)
    kept = json.loads((tmp_path / "run" / "trackers.json").read_text())[tracker]
    package = train_tracked(tmp_path, tracker, 8, monkeypatch)
    assert package.calls[0][2][key] == kept
    assert [step for step, _ in package.numbers(log)] == [6, 8, 8, 8]


def test_the_tracked_run_has_the_config(tmp_path, monkeypatch):
    package = train_tracked(tmp_path, "wandb", 2, monkeypatch)
    assert package.calls[0][2]["config"]["training"]["batch_size"] == 256
    other = train_tracked(tmp_path / "other", "mlflow", 2, monkeypatch)
    parameters = next(arguments[0] for name, arguments, _ in other.calls if name == "log_params")
    assert parameters["training.batch_size"] == 256


def test_a_tracked_run_is_ended_after_an_error_too(tmp_path, monkeypatch):
    package = Calls("id-7")
    monkeypatch.setitem(sys.modules, "wandb", package)

    def fail(*arguments, **named):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("wukong_jax.runs.train_run.TrainLoop.run", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_run(make_config(trackers=["wandb"]), tmp_path / "run", silent)
    assert package.names() == ["init", "finish"]


@pytest.mark.parametrize("tracker", NAMES)
def test_a_package_that_is_missing_is_one_line_and_nothing_is_begun(tracker, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, tracker, None)  # as if it were not installed
    with pytest.raises(UserError, match=rf"trackers = '{tracker}': .*pip install 'wukong-jax\[{tracker}\]'") as error:
        train_run(make_config(trackers=[tracker]), tmp_path / "run", silent)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_by_name():
    with pytest.raises(UserError, match=r"config\.training\.trackers\[0\] = 'visdom': not one of 'wandb', 'mlflow'"):
        make_config(trackers=["visdom"])


def test_trackers_may_change_and_old_configs_have_none():
    old = json.loads(run_config_to_json(make_config()))
    del old["training"]["trackers"]  # as written before there were any
    before: RunConfig = build_run_config(old)
    assert compare_run_configs(before, make_config()) == ({}, {})
    allowed, refused = compare_run_configs(before, make_config(trackers=["wandb"]))
    assert list(allowed) == ["training.trackers"]
    assert not refused


def test_mlflow_s_own_file_store_has_the_numbers(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    train_run(make_config(steps=4, trackers=["mlflow"]), tmp_path / "run", silent)
    run = mlflow.get_run(json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert run.data.metrics["eval/test/auc"] == summary["test"]["auc"]
    assert run.data.params["training.batch_size"] == "256"
    assert run.info.status == "FINISHED"
