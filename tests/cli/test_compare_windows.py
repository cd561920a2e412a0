"""Tests compare_windows end to end on a few thousand planted impressions: equal rows, serving head, rows per policy."""

import json

import pytest

from tests.end_to_end.run_script import run_script
from tests.repository import ROOT


def test_policies_train_on_equal_rows_and_are_judged_by_the_final_label(tmp_path):
    code, _, err = run_script(
        "compare_windows.py",
        f"--config={ROOT / 'configs' / 'lattice' / 'zipper_planted.py'}",
        *("--objective=conversion", "--windows=6h,7d", "--policies=6h", "--seeds=0"),
        *(f"--workdir={tmp_path / 'runs'}", f"--output={tmp_path / 'out'}"),
        *("--config.data.options.train_rows=20000", "--config.data.options.validation_rows=500"),
        *("--config.data.options.test_rows=2000", "--config.training.batch_size=256"),
        *("--config.model.options.layers=1", "--config.training.evaluation_batch_size=512"),
    )
    assert code == 0, err
    short, final = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert (short["variant"], short["serving"], short["hours_at_emission"]) == ("6h", "conversion@6h", 6)
    assert (final["variant"], final["serving"], final["training_rows"]) == ("final labels", "conversion", 20_000)
    configs = [tmp_path / "runs" / one / "seed_0" / "config.json" for one in ("6h", "final_labels")]
    equal, longer = (json.loads(path.read_text())["optimizer"] for path in configs)
    for key in ("hold_steps", "decay_steps"):
        assert longer[key] == round(equal[key] * 20_000 / short["training_rows"]) > equal[key] > 0
    report = json.loads((tmp_path / "runs" / "rows" / "6h" / "report.json").read_text())["zipper"]
    assert short["training_rows"] == report["training_rows"] == report["policies"]["7d"]["emitted"] < 20_000
    # a head of six hours misses most conversions, so it predicts too few
    assert short["test_calibration"] < 0.6 < final["test_calibration"]
    assert short["test_log_loss_values"] == [pytest.approx(short["test_log_loss"])]
