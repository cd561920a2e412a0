"""Tests that a split evaluated by ranges, one a device, has the metrics of the whole, with sums made where rows are."""

from pathlib import Path

import jax
import numpy as np
import pytest

from tests.data.blocks.test_loader import SCHEMA, NumberedRows
from wukong_jax.data.blocks.batch import Batch, Columns
from wukong_jax.runs import evaluation
from wukong_jax.runs.row_predictions import RowPredictions
from wukong_jax.sharding.mesh import build_mesh, replicated

ROWS, BATCH = 1003, 64


class ScoredRows(NumberedRows):
    """Rows whose dense column is a score that tells something of the label; some count twice, some are masked."""

    def read(self, index: int) -> Columns:
        columns = dict(super().read(index))
        random = np.random.default_rng(index)
        rows = len(columns["weight"])
        columns["labels"] = random.integers(0, 2, (rows, 1)).astype(np.float32)
        columns["dense"] = (columns["labels"] + random.normal(size=(rows, 1))).astype(np.float32)
        columns["weight"] = random.integers(0, 3, rows).astype(np.float32)
        columns["label_mask"] = random.integers(0, 2, (rows, 1)).astype(np.float32)
        columns["domain"] = np.zeros(rows, np.int32)
        return columns


@pytest.mark.parametrize("exact_rows", [0, ROWS])
def test_ranges_of_a_split_have_the_metrics_of_the_whole(exact_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, source = build_mesh(hosts=2, chips=4), ScoredRows(ROWS, 50)
    score = jax.jit(lambda batch: batch.dense * 2 - 1, out_shardings=replicated(mesh))

    def evaluate() -> evaluation.Evaluation:
        return evaluation.evaluate_split(score, source, SCHEMA, BATCH, mesh, exact_rows)

    whole = evaluate()
    read: list[Batch] = []
    monkeypatch.setattr(evaluation, "find_own_rows", lambda mesh, rows: np.arange(rows))  # as if others had the rest
    monkeypatch.setattr(
        evaluation, "put_batch", lambda batch, mesh, put=evaluation.put_batch: read.append(batch) or put(batch, mesh)
    )
    by_ranges = evaluate()
    assert read[0].group.tolist() != list(range(BATCH))  # of every range
    assert by_ranges.metrics.keys() == whole.metrics.keys()
    assert whole.metrics["auc"] > 0.7
    for name, value in whole.metrics.items():
        np.testing.assert_allclose(by_ranges.metrics[name], value, rtol=1e-6, err_msg=name)
    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6),
        by_ranges.calibration,
        whole.calibration,
    )


@pytest.mark.parametrize("rows", [ROWS, 5])  # five rows leave three of eight ranges without any
def test_predictions_of_ranges_are_the_file_of_rows_in_order(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, source = build_mesh(hosts=2, chips=4), ScoredRows(rows, 50)
    score = jax.jit(lambda batch: batch.dense * 2 - 1, out_shardings=replicated(mesh))

    def write(name: str) -> str:
        file = tmp_path / name
        with RowPredictions(file, SCHEMA, evaluation.list_ranges(source, mesh)) as writer:
            evaluation.evaluate_split(score, source, SCHEMA, BATCH, mesh, 0, writer.write, all_rows=True)
        return file.read_text(encoding="utf-8")

    whole = write("whole.csv")
    assert len(whole.splitlines()) == rows + 1
    monkeypatch.setattr(evaluation, "find_own_rows", lambda mesh, rows: np.arange(rows))  # as if others had the rest
    assert len(evaluation.list_ranges(source, mesh)) == 9
    assert write("ranges.csv") == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranges.csv", "whole.csv"]
