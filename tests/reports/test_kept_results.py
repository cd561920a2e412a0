import json

import numpy as np

from wukong_jax.reports.kept_results import summarise_seeds, write_results


def summary(auc):
    metrics = {"auc": auc, "log_loss": 1 - auc, "normalized_entropy": 0.5, "calibration": 1.0}
    facts = {"dense_parameters": 3, "embedding_parameters": 4, "train_flops_per_example": 5.0, "training_rows": 6}
    return {"name": "m", "test": metrics, "examples_seen": 7, "wall_seconds": 1.26} | facts


def test_rows_hold_mean_and_sample_deviation_over_seeds():
    row = summarise_seeds({0: summary(0.7), 1: summary(0.8), 5: summary(0.9)})
    assert row["seeds"] == [0, 1, 5]
    np.testing.assert_allclose([row["test_auc"], row["test_auc_std"]], [0.8, 0.1])
    assert row["test_auc_values"] == [0.7, 0.8, 0.9]
    assert "validation_auc" not in row


def test_one_seed_has_no_deviation(tmp_path):
    path = write_results(tmp_path / "docs", "python x", [summarise_seeds({0: summary(0.7)})])
    results = json.loads(path.read_text())
    assert results["rows"][0]["test_auc_std"] is None
    assert set(results) == {"command", "commit", "machine", "date", "rows"}
