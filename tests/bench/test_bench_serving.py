"""Tests what the serving bench draws and counts; its timings are not tested."""

import shutil

import numpy as np
import pytest

from tests.serving.conftest import draw_shop_rows, shop  # noqa: F401
from wukong_jax.bench.serving import TimedPath, draw_raw_rows
from wukong_jax.bench.serving_load import measure_load, replace_artefact
from wukong_jax.serving import load_scorer


def test_a_path_is_timed_at_each_size():
    asked = []
    path = TimedPath("counted", lambda rows: asked.append(rows) or np.zeros(rows))
    path.take_turn(3)
    path.take_turn(64)
    assert asked.count(3) == 2 + len(path.seconds[3]) >= 7
    assert len(path.seconds[64]) <= 200


def test_raw_rows_are_those_of_the_benchs_columns():
    rows = draw_raw_rows(5)
    assert len(rows) == 5
    assert set(rows[0]) == {f"d{i}" for i in range(13)} | {f"c{i}" for i in range(26)}
    assert all(len(row["c25"]) == 8 for row in rows)


def test_a_replaced_artefact_can_be_loaded(shop, tmp_path):  # noqa: F811
    shutil.copytree(shop / "served", tmp_path / "served")
    replace_artefact(tmp_path / "served", 77)
    assert load_scorer(tmp_path / "served", (16,)).manifest.step == 77
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


@pytest.mark.slow
def test_nothing_is_lost_under_load(shop, tmp_path):  # noqa: F811
    pytest.importorskip("uvicorn", reason="needs the extra `serve`")
    shutil.copytree(shop / "served", tmp_path / "served")
    rows = draw_shop_rows(60).drop("click", "buy").to_dicts()
    load = measure_load(tmp_path / "served", rows, clients=3, rows_per_request=5, seconds=20)
    assert (load["lost"], load["first_lost"], load["artefacts_seen"]) == (0, None, 2)
    assert load["requests"] > 20
