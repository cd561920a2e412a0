"""Tests the sweeps over sizes: what is counted, what is marked as above its order, and a tiny sweep from end to end."""

import numpy as np
import pytest

from wukong_jax.bench.growth import Sizes, Sweep, build_sized_run, compare_with_work, count_work, measure_growth
from wukong_jax.bench.growth_picture import draw_growth
from wukong_jax.bench.train_step import draw_batch

TINY = Sizes(batch=16, width=4, layers=1, fields=3, table_rows=40)


def made_rows(times, work):
    pairs = enumerate(zip(times, work, strict=True))
    return [
        {"sweep": "batch", "value": 2**i, "median_ms": t, "minimum_ms": t, "work": "FLOPs", "work_units": w}
        for i, (t, w) in pairs
    ]


def test_time_above_its_work_is_marked_from_any_smaller_size():
    # Flat first: from the smallest size on, the time never grows faster than the work.
    rows = compare_with_work(made_rows([1, 1, 1, 3], [1, 2, 4, 8]))
    assert [row["over_work"] for row in rows] == [1, 1, 1, 1.5]
    assert [row["above_its_order"] for row in rows] == [False, False, False, True]


def test_exponents_are_those_of_power_laws():
    row = compare_with_work(made_rows([4.0**i for i in range(4)], [2.0**i for i in range(4)]))[0]
    assert (row["time_exponent"], row["expected_exponent"]) == (2, 1)


@pytest.mark.parametrize("bag", [1, 3])
def test_work_is_what_a_loop_over_ids_counts(bag):
    run = build_sized_run(Sizes(batch=16, width=4, layers=1, fields=3, table_rows=40, bag=bag))
    batch = draw_batch(run, 16)
    touched = set()
    for row in batch.ids:
        for field in run.layout.fields:
            for slot in range(*field.slots):
                assert 0 <= row[slot] < 40
                touched.add((field.column, int(row[slot])))
    counted = count_work(run, batch)
    assert counted["ids"] == 16 * 3 * bag
    assert counted["distinct_rows"] == len(touched)
    assert counted["table_bytes"] == 16 * 3 * bag * 4 * 4 + len(touched) * (4 * 4 + 4 + 4)


def test_a_sweep_is_timed_and_drawn():
    said = []
    (rows,) = measure_growth({"bag": Sweep((1, 2), "ids")}, TINY, 2, said.append)
    assert [(row["value"], row["ids"], row["timed_steps"]) for row in rows] == [(1, 48, 6), (2, 96, 6)]
    assert rows[0]["flops"] == rows[1]["flops"] > 0  # pooling is no product
    assert all(0 < row["minimum_ms"] <= row["median_ms"] for row in rows)
    assert rows[0]["expected_exponent"] == 1
    assert len(said) == 2
    above = compare_with_work(made_rows([1, 3], [1, 2]))
    picture = draw_growth({"bag": rows, "batch": above})
    assert picture.startswith(b"\x89PNG")
    assert picture != draw_growth({"bag": rows, "batch": [{**row, "above_its_order": False} for row in above]})
    assert np.isfinite([row["time_exponent"] for row in rows]).all()
