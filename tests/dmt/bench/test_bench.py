"""Tests the benchmark's evaluation of times and bytes: shares, speed-ups, joined quality, and the figure."""

import json
from typing import Any

import pytest

from dmt.bench.network_namespaces import LinkCounters
from dmt.bench.step_times import COUNTED_STEPS, list_variants, measure, read_quality, write_speedup


class PretendedCluster:
    """Fake cluster of two hosts; a step takes a fixed time plus 8 ms per byte divided by the rate."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self.sent = 0

    def set_rate(self, mbit: float | None) -> None:
        self.rate = mbit

    def read_counters(self) -> list[LinkCounters]:
        return [LinkCounters(self.sent + 500, 0, 0, 0), LinkCounters(0, 0, 0, 0)]

    def call(self, command: str, **arguments: Any) -> list[Any]:
        name = arguments["name"]
        payload = {"flat": 1000, "flat column-wise": 1200, "SPTT": 1000, "towers / 4": 250}.get(name, 1000)
        if command == "build":
            purposes = [("embeddings", payload - 50), ("dense gradients", 50)]
            return [{"traffic": [{"purpose": p, "host_bytes": b} for p, b in purposes], "flops": 1.0}] * 2
        steps = arguments["steps"]
        self.sent += payload * steps + 77  # what is not of the steps
        seconds = 0.010 + (payload / self.rate * 1e-3 if self.rate else 0)
        return [[seconds] * steps, [seconds / 2] * steps]  # the slower host counts


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    variants = list_variants([4])
    configs = {variant.name: {} for variant in variants}
    *_, last = measure(PretendedCluster(), variants, configs, [None, 50.0], 3, 4, lambda text: None)  # type: ignore[arg-type]
    return last


def find(rows: list[dict[str, Any]], variant: str, rate: float | None) -> dict[str, Any]:
    return next(row for row in rows if (row["variant"], row["link_mbit"]) == (variant, rate))


def test_share_and_speedup_are_held_against_the_better_baseline(rows) -> None:
    flat, towers = find(rows, "flat", 50.0), find(rows, "towers / 4", 50.0)
    assert flat["step_ms"] == 30.0  # 10 of work, 20 on the link
    assert flat["flat_exchange_share"] == towers["flat_exchange_share"] == round(2 / 3, 4)
    assert find(rows, "flat column-wise", 50.0)["speedup_over_flat"] == round(30 / 34, 4)
    assert towers["speedup_over_flat"] == round(30 / 15, 4)
    assert find(rows, "flat", None)["flat_exchange_share"] == 0
    assert towers["steps"] == 12


def test_counted_bytes_are_of_the_steps_alone(rows) -> None:
    row = find(rows, "towers / 4", None)
    assert abs(row["counted_host_bytes"] - 250) < 77 / COUNTED_STEPS
    assert (row["host_bytes"], row["host_bytes_embeddings"], row["host_bytes_dense_gradients"]) == (250, 200, 50)


def test_results_join_the_models_quality_and_hold_what_is_asked(rows, tmp_path) -> None:
    quality = tmp_path / "quality"
    quality.mkdir()
    known = [{"variant": "flat", "test_auc": 0.81, "test_auc_std": 0.001}, {"variant": "4", "test_auc": 0.80}]
    (quality / "results.json").write_text(json.dumps({"rows": known}))
    write_speedup(tmp_path / "out", "python bench", rows, read_quality(str(quality)))
    kept = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert find(kept, "SPTT", None)["test_auc"] == 0.81  # the same model
    assert find(kept, "towers / 4", None)["test_auc"] == 0.80
    assert (tmp_path / "out" / "speedup.png").stat().st_size > 10_000
    for key in ("variant", "compression", "link_mbit", "flat_exchange_share", "speedup_over_flat", "test_auc_std"):
        assert key in kept[0]
