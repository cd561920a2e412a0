"""Tests the statistics of a preparation against sums over single rows, and the warnings that follow from them."""

import numpy as np
import pytest

from wukong_jax.data.blocks.preparation_report import RowStatistics, format_report
from wukong_jax.data.blocks.preparation_warnings import list_warnings
from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source


def build_schema(**changes):
    columns = (CategoricalColumn("c", rows=3),)
    labels = (LabelColumn("click"), LabelColumn("buy"))
    return Schema(name="small", source=Source("csv"), labels=labels, categorical=columns, **changes)


def draw_columns(rows, domains, seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, (rows, 2)).astype(np.float32)
    return {
        "labels": rng.integers(0, 2, (rows, 2)).astype(np.float32) * mask,
        "label_mask": mask,
        "dense": np.zeros((rows, 0), np.float32),
        "ids": rng.integers(-1, 3, (rows, 1)).astype(np.int32),
        "domain": rng.integers(0, domains, rows).astype(np.int32),
        "weight": rng.uniform(0, 3, rows).astype(np.float32),
    }


@pytest.mark.parametrize("domain_values", [(), ("app", "web", "tv")])
def test_training_label_sums_weigh_observed_training_rows_by_domain(domain_values):
    domain = "site" if domain_values else None
    schema = build_schema(domain=domain, domain_values=domain_values)
    statistics, twin = RowStatistics(schema), {}
    for seed, split in enumerate((0, 1, 0, 2)):
        columns = draw_columns(50, max(len(domain_values), 1), seed)
        statistics.add(split, columns)
        for row in range(50):
            for objective, name in enumerate(("click", "buy")):
                key = (domain_values[columns["domain"][row]] if domain_values else "all", name)
                sums = twin.setdefault(key, [0.0, 0.0])
                if split == 0 and columns["label_mask"][row, objective]:
                    sums[0] += float(columns["weight"][row]) * float(columns["labels"][row, objective])
                    sums[1] += float(columns["weight"][row])
    sums = statistics.report(schema, {})["training_label_sums"]
    assert {(d, o): pair for d, by_label in sums.items() for o, pair in by_label.items()} == {
        key: pytest.approx(pair, rel=1e-12) for key, pair in twin.items()
    }


def build_report(columns, **changes):
    statistics = RowStatistics(schema := build_schema(**changes))
    for split, part in columns.items():
        statistics.add(SPLITS.index(split), part)
    return statistics.report(schema, {})


def draw_splits(**changes):
    columns = {split: draw_columns(200, 1, seed) for seed, split in enumerate(SPLITS)}
    for split, values in changes.items():
        columns[split] |= values
    return columns


def test_rows_without_a_fault_give_no_warning():
    assert list_warnings(build_report(draw_splits()), {"click": [], "buy": []}) == []


@pytest.mark.parametrize("unknown", [0.4, 0.6])
def test_many_unknown_values_of_a_split_are_warned_of_with_both_shares(unknown):
    ids = np.where(np.arange(200) < 200 * unknown, 0, 1).astype(np.int32)[:, None]
    (train,) = [{"ids": np.where(np.arange(200) < 10, 0, np.arange(200) % 3 + 1).astype(np.int32)[:, None]}]
    found = list_warnings(build_report(draw_splits(train=train, test={"ids": ids})), {})
    assert len(found) == (1 if unknown > 0.5 else 0)
    for line in found:
        assert line.startswith("column 'c': 60% of the test values are unknown, 5% of the training values; ")
    same = list_warnings(build_report(draw_splits(train={"ids": ids}, test={"ids": ids})), {})
    assert same == []  # rare values are as many in training


def test_labels_of_one_class_or_none_are_named_by_split():
    ones = np.ones((200, 2), np.float32)
    changes = {
        "validation": {"labels": ones * [1, 0], "label_mask": ones},
        "test": {"labels": 0 * ones, "label_mask": ones * [0, 1]},
    }
    assert list_warnings(build_report(draw_splits(**changes)), {}) == [
        "label 'click': is 1 in every validation row that has it; AUC and NE need both 0 and 1",
        "label 'click': no test row has it (all values are missing), so it is not measured there",
        "label 'buy': is 0 in every validation row that has it; AUC and NE need both 0 and 1",
        "label 'buy': is 0 in every test row that has it; AUC and NE need both 0 and 1",
    ]


def test_a_rare_label_is_no_label_of_one_class():
    labels = np.zeros((3_000_000, 2), np.float32)
    labels[0] = 1
    mask = np.ones_like(labels)
    many = {"dense": np.zeros((len(labels), 0)), "domain": np.zeros(len(labels), np.int32), "labels": labels}
    many |= {"label_mask": mask, "ids": np.ones((len(labels), 1), np.int32), "weight": mask[:, 0]}
    report = build_report({"validation": many, "train": draw_columns(200, 1, 0)})
    assert report["label_rate"]["click"]["validation"] == 0.0  # rounded
    assert list_warnings(report, {}) == []


@pytest.mark.parametrize("cut", [1, 100, 300, 599])
def test_columns_that_never_vary_over_the_training_rows_are_named(cut):
    ids = np.zeros((600, 4), np.int32)
    ids[:, 0] = 5
    ids[599, 1] = 1  # the last row differs
    ids[:, 2:] = [2, -1]
    dense = np.zeros((600, 2), np.float32)
    dense[300:, 1] = 1
    columns = (CategoricalColumn("same", rows=9), CategoricalColumn("last", rows=9))
    bag = CategoricalColumn("bag", rows=9, separator="|", max_length=2)
    schema = Schema(
        name="small",
        source=Source("csv"),
        labels=(LabelColumn("click"),),
        dense=(DenseColumn("flat"), DenseColumn("step")),
        categorical=(*columns, bag),
    )
    statistics = RowStatistics(schema)
    rest = {"labels": np.tile([[0.0], [1.0]], (300, 1)), "label_mask": np.ones((600, 1)), "weight": np.ones(600)}
    rows = rest | {"ids": ids, "dense": dense, "domain": np.zeros(600, np.int32)}
    for start, stop in ((0, 0), (0, cut), (cut, 600)):
        statistics.add(0, {name: array[start:stop] for name, array in rows.items()})
    statistics.add(2, rows | {"ids": np.arange(2400).reshape(600, 4)})  # test rows do not count
    report = statistics.report(schema, {})
    assert report["constant_columns"] == ["flat", "same", "bag"]
    (line,) = list_warnings(report, {})
    assert line == "no variation in the training rows, so nothing can be learned from: 'flat', 'same', 'bag'"


def test_empty_input_files_are_named():
    report = build_report(draw_splits()) | {"empty_files": ["b.csv"], "inputs": [{"file": "a.csv"}, {"file": "b.csv"}]}
    assert list_warnings(report, {}) == ["no rows in 1 of 2 input files: 'b.csv'"]


def test_the_printed_report_has_domains_and_notable_unknown_shares():
    values = tuple(f"shop {i}" for i in range(15))
    columns = {split: draw_columns(200, 15, seed) for seed, split in enumerate(SPLITS)}
    report = build_report(columns, domain="site", domain_values=values)
    report |= {"skipped_rows": 0, "skipped_examples": [], "seconds": 1.0, "peak_memory_bytes": 1 << 30}
    text = format_report(report)
    largest = max(values, key=lambda value: sum(report["domain_rows"][value].values()))
    rows = report["domain_rows"][largest]
    (line,) = [line for line in text.splitlines() if line.startswith(f"  {largest} ")]
    assert line.split()[-3:] == [str(rows[split]) for split in SPLITS]
    assert "  and 3 more, see report.json" in text
    shares = report["unknown_share"]["c"]
    (line,) = [line for line in text.splitlines() if line.startswith("  c ")]
    assert line.split()[1:] == [f"{shares[split]:.4f}" for split in SPLITS]
    calm = format_report(report | {"unknown_share": {"c": dict.fromkeys(SPLITS, 0.01)}})
    assert "unknown" not in calm
