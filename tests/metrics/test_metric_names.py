"""Tests names of metrics and their means over objectives and domains."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong_jax.metrics.accumulate import compute_metric_sums, finish_metrics
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.metrics.metric_names import name_metrics, replace_nan_by_none

NAN = float("nan")
LABEL = st.sampled_from([0.0, 1.0])
# Not st.floats, which refuses to work where a library has switched off subnormal numbers.
THOUSANDTHS, TENTHS = st.integers(1, 9999).map(lambda n: n / 1000), st.integers(-50, 50).map(lambda n: n / 10)
ROW = st.tuples(LABEL, TENTHS, THOUSANDTHS, st.sampled_from([0.0, 1.0]), st.integers(0, 1))


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


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, max_size=30), st.sampled_from([None, 0.0, 1.0]))
def test_metrics_of_one_class_are_not_defined_and_others_are_numbers(rows, only):
    """AUC and NE are nan exactly where the counted labels, by a loop over the rows, are of one class."""
    rows = [(label if only is None else only, *rest) for label, *rest in rows]
    columns = np.array(rows, np.float32).reshape(-1, 5)
    labels, logits, weight, mask, domain = columns.T
    arguments = (logits[:, None], labels[:, None], mask[:, None], weight, domain.astype(np.int32))
    exact = compute_exact_metrics(*arguments, ["click"], ["a", "b"], group=domain.astype(np.int32))
    sums = jax.jit(compute_metric_sums, static_argnames=("domains", "bins"))(
        *(np.concatenate([a, np.zeros((30 - len(a), *a.shape[1:]), a.dtype)]) for a in arguments), domains=2, bins=64
    )
    for named in (exact, finish_metrics(sums, ["click"], ["a", "b"])):
        for prefix, members in (("", {0, 1}), ("a/click/", {0}), ("b/click/", {1})):
            counted = [row for row in rows if row[3] > 0 and row[4] in members]
            classes = {row[0] for row in counted}
            for key in ("auc", "normalized_entropy"):
                assert math.isfinite(named[prefix + key]) == (len(classes) == 2), (prefix, key)
            assert math.isfinite(named[f"{prefix}calibration"]) == (1.0 in classes)
            assert math.isfinite(named[f"{prefix}log_loss"]) == bool(counted)
            assert named[f"{prefix}rows"] == len(counted)
    two = [{row[0] for row in rows if row[3] > 0 and row[4] == group} == {0.0, 1.0} for group in (0, 1)]
    assert math.isfinite(exact["gauc"]) == any(two)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_rounding_of_weights_does_not_define_the_entropy_of_one_class(label):
    """Two sums of the same weights in another order differ, which made a rate of 1 - 1e-16 and an entropy of 1e14."""
    rng, ones = np.random.default_rng(0), np.ones((10_000, 1), np.float32)
    for _ in range(5):
        weight = (10 ** rng.uniform(-6, 6, len(ones))).astype(np.float32)
        logits, domain = rng.normal(size=ones.shape), np.zeros(len(ones), int)
        named = compute_exact_metrics(logits, label * ones, ones, weight, domain, ["click"], ["all"])
        assert named["base_rate"] == label
        assert math.isnan(named["normalized_entropy"])
        assert math.isnan(named["auc"])


def test_nan_and_infinity_become_null_at_any_depth():
    value = {"a": NAN, "b": [1.0, math.inf, {"c": np.float32("nan")}], "d": np.int64(3), "e": "text", "f": True}
    assert replace_nan_by_none(value) == {"a": None, "b": [1.0, None, {"c": None}], "d": 3, "e": "text", "f": True}
