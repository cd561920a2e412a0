"""Tests the generated log whose items come and go: its drift, its Bayes loss, and its files."""

import json

import numpy as np
import polars as pl
import pytest

from wukong_jax.data.planted.drifting_log import DriftingLog, describe_drifting_log, write_drifting_log
from wukong_jax.data.planted.drifting_log_config import DriftingLogConfig
from wukong_jax.errors import UserError
from wukong_jax.schema import load_schema

SMALL = DriftingLogConfig(days=6, rows_per_day=20_000, items=40, turnover=0.25, users=10, zipf_exponent=0.0)


def test_items_leave_at_the_turnover_and_never_come_back():
    log = DriftingLog(SMALL)
    seen = [set(log.draw_day()[0]["item"]) for _ in range(6)]
    assert all(len(items) == 40 for items in seen)
    for day in range(1, 6):
        gone = set().union(*seen[: day - 1]) - seen[day - 1]
        assert not gone & seen[day]
    kept = [len(seen[day] & seen[day + 1]) / 40 for day in range(5)]
    assert np.mean(kept) == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 200))
    assert log.born == len(set().union(*seen))


def test_the_bayes_loss_is_that_of_the_true_probabilities(tmp_path):
    report = write_drifting_log(SMALL, tmp_path / "made")
    log = DriftingLog(SMALL)
    for name, bayes in report["bayes_log_loss"].items():
        rows, chance = log.draw_day()
        assert rows.equals(pl.read_parquet(tmp_path / "made" / "log" / f"{name}.parquet"))
        click = rows["click"].to_numpy()
        losses = -np.where(click, np.log(chance), np.log1p(-chance))
        assert bayes == pytest.approx(losses.mean(), abs=4 * losses.std() / np.sqrt(len(losses)))
        # Rows of one user and item have one probability.
        groups = rows.with_columns(chance=chance).group_by("user", "item").agg(pl.col("chance").n_unique())
        assert groups["chance"].max() == 1
        assert rows["time"].is_sorted()
        days = pl.from_epoch(rows["time"], time_unit="s").dt.date().unique()
        assert [str(day) for day in days] == [name]
    assert json.loads((tmp_path / "made" / "report.json").read_text(encoding="utf-8")) == report
    assert load_schema(tmp_path / "made" / "schema.json") == describe_drifting_log()
    with pytest.raises(UserError, match="exists already"):
        write_drifting_log(SMALL, tmp_path / "made")


def test_without_turnover_nothing_drifts():
    log = DriftingLog(DriftingLogConfig(days=3, rows_per_day=2000, items=5, turnover=0.0))
    assert {item for _ in range(3) for item in log.draw_day()[0]["item"]} == set(range(5))
