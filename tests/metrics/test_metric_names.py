"""Tests names of metrics and their means over objectives and domains."""

import math

import numpy as np
import pytest

from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.metrics.metric_names import name_metrics, replace_nan_by_none

NAN = float("nan")


def slices(table):
    return lambda domain, objective: table[domain, objective]


def metrics(auc, log_loss=0.5, rows=10.0):
    return {"auc": auc, "log_loss": log_loss, "rows": rows}


def test_one_objective_of_one_domain_has_flat_names_only():
    named = name_metrics(slices({(None, 0): metrics(0.7)}), ["click"], ["all"])
    assert named == metrics(0.7)


def test_several_objectives_have_their_own_names_and_a_mean():
    table = {(None, 0): metrics(0.7, 0.4, 10.0), (None, 1): metrics(0.9, 0.2, 6.0)}
    named = name_metrics(slices(table), ["click", "buy"], ["all"])
    assert named["auc"] == pytest.approx(0.8)
    assert named["log_loss"] == pytest.approx(0.3)
    assert named["rows"] == 10
    assert named["buy/auc"] == 0.9
    assert named["auc_objectives"] == 2
    assert len(named) == 10


def test_several_domains_of_one_objective_are_named_in_full():
    table = {(None, 0): metrics(0.7), (0, 0): metrics(0.6), (1, 0): metrics(0.8)}
    named = name_metrics(slices(table), ["click"], ["shop", "news"])
    assert named["auc"] == 0.7
    assert named["news/click/auc"] == 0.8
    assert "click/auc" not in named


def test_mean_leaves_out_undefined_objectives_but_not_diverged_ones():
    defined, one_class, empty = metrics(0.7), metrics(NAN, 0.1), metrics(NAN, NAN, rows=0.0)
    table = {(None, 0): defined, (None, 1): one_class, (None, 2): empty}
    named = name_metrics(slices(table), ["a", "b", "c"], ["all"])
    assert named["auc"] == 0.7
    assert named["log_loss"] == pytest.approx(0.3)
    table[None, 2] = metrics(NAN, NAN, rows=5.0)
    diverged = name_metrics(slices(table), ["a", "b", "c"], ["all"])
    assert math.isnan(diverged["auc"])
    assert math.isnan(diverged["log_loss"])


def test_exact_metrics_add_gauc_where_there_are_groups():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, 1)), rng.integers(0, 2, (200, 1)).astype(float)
    arguments = (logits, labels, np.ones((200, 1)), np.ones(200), np.zeros(200, int), ["click"], ["all"])
    without, grouped = compute_exact_metrics(*arguments), compute_exact_metrics(*arguments, group=np.arange(200) // 20)
    assert set(grouped) - set(without) == {"gauc", "gauc_groups", "gauc_groups_left_out"}
    assert grouped["gauc_groups"] == 10
    assert grouped["gauc"] != grouped["auc"]


def test_nan_and_infinity_become_null_at_any_depth():
    value = {"a": NAN, "b": [1.0, math.inf, {"c": np.float32("nan")}], "d": np.int64(3), "e": "text", "f": True}
    assert replace_nan_by_none(value) == {"a": None, "b": [1.0, None, {"c": None}], "d": 3, "e": "text", "f": True}
