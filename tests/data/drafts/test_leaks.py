"""Tests that columns which tell the label are found, and that ids which cannot tell it are not."""

import numpy as np
import polars as pl
import pytest

from tests.data.drafts.draft_rows import draft_frame
from wukong_jax.data.drafts.leaks import single_column_auc, telling_value, value_codes
from wukong_jax.metrics.auc import compute_auc

ROWS = 4000
RANDOM = np.random.default_rng(1)
LABELS = RANDOM.random(ROWS) < 0.2
FRAME = pl.DataFrame(
    {
        "label": LABELS.astype(int),
        "copy": np.where(LABELS, "yes", "no"),
        "inverse": 1 - LABELS.astype(int),
        "time_of_click": pl.Series([str(1.5 + row) if one else None for row, one in enumerate(LABELS)]),
        "threshold": np.where(LABELS, 5.5, -5.5) + RANDOM.random(ROWS).round(3),
        "nearly": np.where(RANDOM.random(ROWS) < 0.05, ~LABELS, LABELS).astype(int) * 3 + RANDOM.integers(0, 3, ROWS),
        "refund": np.where(LABELS & (RANDOM.random(ROWS) < 0.5), "paid back", "none"),
        "rare_ids": [f"r{row // 2}" for row in range(ROWS)],
        "fair": np.where(RANDOM.random(ROWS) < 0.3, LABELS, ~LABELS).astype(int) + RANDOM.integers(0, 9, ROWS),
    }
)


def test_leaks_are_left_out_doubtful_columns_are_named_and_others_are_kept(tmp_path):
    found = {d.name: d for d in draft_frame(FRAME, tmp_path / "rows.csv").decisions}
    for name in ("copy", "inverse", "time_of_click", "threshold"):
        assert found[name].kind == "left out", name
        assert "tells label by itself" in found[name].reason
        assert f"--keep={name}" in found[name].unsure
    assert "AUC" in found["nearly"].unsure
    assert "'paid back'" in found["refund"].unsure
    assert found["rare_ids"].kind == found["fair"].kind == "category"
    assert "AUC" not in found["fair"].unsure


def test_kept_leak_is_kept(tmp_path):
    draft = draft_frame(FRAME, tmp_path / "rows.csv", keep=("copy",))
    assert next(d for d in draft.decisions if d.name == "copy").kind == "category"


def test_alternating_labels_do_not_hide_a_leak():
    labels = np.arange(1000) % 2 == 0
    assert single_column_auc(labels.astype(int), labels) == 1.0


def test_single_column_auc_is_that_of_the_metrics_for_a_number():
    codes = RANDOM.integers(0, 3, ROWS)
    labels = RANDOM.random(ROWS) < np.array([0.1, 0.5, 0.9])[codes]
    # Rates grow with the code, so ranking by rates is ranking by codes, on either half.
    assert single_column_auc(codes, labels) == pytest.approx(compute_auc(labels, codes), abs=0.02)


def test_values_that_occur_once_tell_nothing():
    assert single_column_auc(np.arange(ROWS), LABELS) == 0.5
    assert single_column_auc(np.zeros(6, int), np.array([True, False] * 3)) is None
    assert telling_value(np.arange(ROWS), LABELS) is None


def test_codes_of_numbers_are_bins_and_missing_is_one_of_its_own():
    codes = value_codes(pl.Series([None, *map(float, range(1000))]), number=True)
    assert codes[0] not in codes[1:]
    assert (np.diff(codes[1:]) >= 0).all()
    assert len(np.unique(codes)) <= 257
