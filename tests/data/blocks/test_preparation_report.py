"""Tests the statistics of a preparation against sums over single rows."""

import numpy as np
import pytest

from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.schema import CategoricalColumn, LabelColumn, Schema, Source


def build_schema(**changes):
    columns = (CategoricalColumn("c", rows=3),)
    labels = (LabelColumn("click"), LabelColumn("buy"))
    return Schema(name="small", source=Source("csv"), labels=labels, categorical=columns, **changes)


def draw_columns(rows, domains, seed):
    rng = np.random.default_rng(seed)
    return {
        "labels": rng.integers(0, 2, (rows, 2)).astype(np.float32),
        "label_mask": rng.integers(0, 2, (rows, 2)).astype(np.float32),
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
