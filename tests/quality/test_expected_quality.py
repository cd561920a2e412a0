"""Trains configs to their end and compares their test metrics with `expected_quality.json`.

Each entry has the config's data (a path among the real data sets), the command that converts it, how many seconds it
takes on 2 CPU cores, and for each metric the expected value and the tolerance: some three standard deviations over
seeds, since processors differ in the last bits and training spreads them. Runs of more than two minutes are trained by
`pytest -m quality` alone.
"""

import json
from pathlib import Path

import pytest

from tests.end_to_end.run_script import run_script

EXPECTED = json.loads(Path(__file__).with_name("expected_quality.json").read_text(encoding="utf-8"))
LONG_SECONDS = 120  # a longer run is trained on request
CASES = [
    pytest.param(name, marks=pytest.mark.quality) if expected["seconds"] > LONG_SECONDS else name
    for name, expected in EXPECTED.items()
]


def find_wrong_metrics(found, expected):
    return {
        name: (found.get(name), f"expected {value} +- {tolerance}")
        for name, (value, tolerance) in expected.items()
        if not isinstance(found.get(name), float) or abs(found[name] - value) > tolerance
    }


def run(script, *flags):
    code, _, error = run_script(script, *flags)
    assert code == 0, error


@pytest.mark.parametrize("name", CASES)
def test_a_config_ends_with_its_expected_metrics(name, real_data, tmp_path):
    expected, workdir = EXPECTED[name], tmp_path / "run"
    flags = [f"--config={name}", f"--workdir={workdir}"]
    if "data" in expected:
        folder, _, file = expected["data"].partition("/")
        path = real_data(folder) / file
        if "convert" in expected:
            source, path = path, tmp_path / ("rows.parquet" if path.suffix == ".parquet" else "rows.csv")
            run(f"{expected['convert']}.py", f"--input={source}", f"--output={path}")
        flags.append(f"--config.data.path={path}")
    run("train.py", *flags)
    found = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))["test"]
    assert find_wrong_metrics(found, expected["test"]) == {}


def test_a_metric_beyond_its_tolerance_or_missing_is_found():
    found = {"auc": 0.75, "log_loss": 0.5, "calibration": None}
    assert find_wrong_metrics(found, {"auc": [0.751, 0.002], "log_loss": [0.499, 0.002]}) == {}
    wrong = find_wrong_metrics(
        found, {"auc": [0.76, 0.002], "log_loss": [0.49, 0.002], "calibration": [1, 9], "x": [0, 9]}
    )
    assert set(wrong) == {"auc", "log_loss", "calibration", "x"}
