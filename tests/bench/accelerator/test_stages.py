"""Tests the stages at their smallest size: every row has its numbers, and what fails is told while the rest runs."""

import json
import math
import sys

import pytest

from tests.cli.command import run_command
from wukong_jax.bench.accelerator.bag_speed import draw_bag_ids
from wukong_jax.bench.accelerator.device_tests import run_tests
from wukong_jax.bench.accelerator.sizes import SIZES, BagSetting
from wukong_jax.bench.accelerator.stage_process import measure_cases
from wukong_jax.bench.accelerator.stages import STAGES, Stage, run_stages
from wukong_jax.bench.accelerator.step_runs import build_step_config
from wukong_jax.bench.peers.cases import CASES
from wukong_jax.errors import UserError

EXPECTED = {
    "machine": {"facts": ("platform", "device_kind", "version_jax", "machine")},
    "correctness": {
        "dlrm sgd": ("loss_difference", "dense_difference", "rows_difference"),
        "dlrm bfloat16": ("loss_difference",),
    },
    "tests": {"pytest": ("passed",)},
    "embeddings": {
        "forward": ("median_ms", "lookups", "distinct"),
        "backward sgd": ("median_ms", "aliased_bytes"),
        "backward rowwise_adagrad": ("median_ms",),
        "backward lazy_adam": ("median_ms",),
    },
    "steps": {
        "product float32": ("tflop_per_second",),
        "product bfloat16": ("tflop_per_second",),
        "product float32 highest": ("tflop_per_second",),
        "s float32": ("median_ms", "share_of_peak"),
        "s bfloat16": ("median_ms", "share_of_peak"),
    },
    "memory": {
        "s float32": ("arguments", "temporaries", "total_bytes"),
        "s float32 compiled ahead for h100_1x1": (),  # a note where there is no compiler for GPUs
    },
    "loop": {"2 reader threads": ("loop_ms", "bare_ms", "loop_over_bare")},
}


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_has_its_rows_on_a_cpu(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
    run_command("bench_accelerator", "--size=tiny", f"--stages={name}", f"--output={tmp_path / 'results'}")
    results = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert results["command"].startswith("wukong-jax bench_accelerator --size=tiny")
    assert results["machine"].startswith("not described") == (name != "machine")
    assert results.keys() == {"command", "commit", "machine", "date", "rows"}
    *cases, process = results["rows"]
    assert [row["case"] for row in cases] == list(EXPECTED[name])
    for row, keys in zip(cases, EXPECTED[name].values(), strict=True):
        assert row["stage"] == name
        for key in keys:
            assert isinstance(row[key], str) or (math.isfinite(row[key]) and row[key] >= 0), (row, key)
    assert process.keys() == {"stage", "case", "seconds"}
    table = capsys.readouterr().out
    assert all(case in table for case in EXPECTED[name])
    assert "FAILED" not in table


def test_a_stage_that_fails_is_told_and_the_rest_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "nowhere")
    output = tmp_path / "results"
    with pytest.raises(UserError, match=r"stages machine, memory: failed"):
        run_command("bench_accelerator", "--size=tiny", "--stages=machine,memory", f"--output={output}")
    rows = json.loads((output / "results.json").read_text(encoding="utf-8"))["rows"]
    errors = {(row["stage"], row["case"]): row["error"] for row in rows if "error" in row}
    assert list(errors) == [("machine", "facts"), ("memory", "s float32")]
    assert all("nowhere" in error and "\n" not in error for error in errors.values())
    assert [(row["stage"]) for row in rows if row["case"] == "process"] == ["machine", "memory"]
    assert "FAILED: UserError: JAX_PLATFORMS" in capsys.readouterr().out


def test_a_case_that_fails_does_not_stop_the_next(tmp_path):
    file = tmp_path / "rows.jsonl"
    measure_cases({"bad": lambda: {"x": 1 / 0}, "good": lambda: {"x": 1}}, file)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(row["case"], row.get("error"), row.get("x")) for row in rows] == [
        ("bad", "ZeroDivisionError: division by zero", None),
        ("good", None, 1),
    ]


BREAKING = """
import os, signal, time
def list_cases(size):
    return {"good": lambda: {"x": 1}, "bad": lambda: %s, "never": lambda: {}}
"""


def test_rows_are_kept_when_processes_die_or_hang(tmp_path, monkeypatch):
    acts = {"dying": "os.kill(os.getpid(), signal.SIGSEGV)", "hanging": "time.sleep(60)", "ending": "os._exit(3)"}
    for module, act in acts.items():
        (tmp_path / f"{module}.py").write_text(BREAKING % act, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path), *filter(None, sys.path)]))
    modules = {"machine": "no_such_module", "steps": "dying", "memory": "ending", "loop": "hanging"}
    stages = {name: Stage(module, 1 if module == "hanging" else 60) for name, module in modules.items()}
    seen = []
    rows = run_stages(list(modules), "tiny", lambda rows: seen.append(len(rows)), stages)
    assert seen == [1, 3, 5, 7]
    good = [(row["stage"], row["x"]) for row in rows if row["case"] == "good"]
    assert good == [("steps", 1), ("memory", 1), ("loop", 1)]
    errors = {row["stage"]: row["error"] for row in rows if row["case"] == "process"}
    assert errors["machine"] == "ended with exit code 1"
    assert errors["steps"] == "ended by SIGSEGV; cases without a row did not run or finish"
    assert errors["memory"] == "ended with exit code 3"
    assert errors["loop"].startswith("took longer than its 6 s and was ended")


def test_all_limits_leave_time_for_the_installation_in_eight_minutes():
    assert sum(stage.seconds for stage in STAGES.values()) * SIZES["full"].patience <= 400


def test_tests_named_exist():
    assert "note" in run_tests(("tests/none.py",))
    for size in SIZES.values():
        assert all((run_tests.__globals__["ROOT"] / name).is_file() for name in size.tests)


def test_failing_tests_are_named(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"1 of 2 tests failed: test_it\.test_bad"):
        run_tests(("test_it.py",), tmp_path)


@pytest.mark.parametrize("name", "sml")
def test_full_models_are_those_compared_with_pytorch(name):
    config, peer = build_step_config(SIZES["full"].steps[name], "float32"), CASES[f"wukong_{name}"]
    assert (config["model"]["options"], config["embeddings"]["width"]) == (peer.options, peer.width)


def test_full_setting_is_fbgemms():
    setting = SIZES["full"].bags
    assert (setting.lookups, setting.distinct, setting.width) == (1 << 20, 350_000, 128)


def test_bag_ids_have_as_many_distinct_values_as_asked_for():
    setting = BagSetting(tables=3, batch=20, length=5, distinct=60, rows=900, width=4)
    ids = draw_bag_ids(setting)
    assert ids.shape == (20, 15)
    by_table = [set(ids[:, first : first + 5].ravel()) for first in (0, 5, 10)]
    assert [len(found) for found in by_table] == [20, 20, 20]
    assert max(map(max, by_table)) < 300
