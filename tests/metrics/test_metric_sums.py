"""Tests mergeable sums: against a loop, padding, masks, merging, sharding, and precision over many rows."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wukong_jax.metrics import accumulate
from wukong_jax.metrics.accumulate import (
    MetricAccumulator,
    MetricSums,
    compute_metric_sums,
    compute_score_bins,
    finish_calibration_curve,
    finish_metrics,
    init_metric_sums,
    merge_metric_sums,
    move_sums_to_host,
)
from wukong_jax.metrics.auc import compute_auc
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.metrics.sums_by_place import sum_by_sort

DOMAINS, OBJECTIVES, BINS = 3, 2, 512
NAMES = (["click", "buy"], ["shop", "news", "video"])
# Sums of 1000 float32 numbers of one sign, each rounded to a relative 6e-8, and a float32 sigmoid.
FLOAT32 = 2e-6

compute = jax.jit(compute_metric_sums, static_argnames=("domains", "bins"))
sums_of = functools.partial(compute, domains=DOMAINS, bins=BINS)


def make_batch(rows=1000, seed=0, unit_weights=False):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, OBJECTIVES)) * 3 - 1).astype(np.float32)
    return {
        "logits": logits,
        "labels": (rng.random((rows, OBJECTIVES)) < 1 / (1 + np.exp(-logits))).astype(np.float32),
        "label_mask": (rng.random((rows, OBJECTIVES)) < 0.8).astype(np.float32),
        "weight": np.ones(rows, np.float32) if unit_weights else rng.choice(np.float32([0, 0.5, 1, 3]), rows),
        "domain": rng.integers(0, DOMAINS, rows).astype(np.int32),
    }


def sum_in_a_loop(batch):
    sums = init_metric_sums(DOMAINS, OBJECTIVES, BINS)
    bins = np.asarray(compute_score_bins(jnp.asarray(batch["logits"]), BINS))
    for b, g in enumerate(batch["domain"]):
        for o in range(OBJECTIVES):
            mass = float(batch["weight"][b]) * float(batch["label_mask"][b, o])
            x, y = float(batch["logits"][b, o]), float(batch["labels"][b, o])
            if mass == 0:
                continue
            probability = 1 / (1 + math.exp(-x))
            sums.rows[g, o] += 1
            sums.weight[g, o] += mass
            sums.loss_sum[g, o] -= mass * (y * math.log(probability) + (1 - y) * math.log(1 - probability))
            sums.label_sum[g, o] += mass * y
            sums.prediction_sum[g, o] += mass * probability
            sums.positive[g, o, bins[b, o]] += mass * y
            sums.negative[g, o, bins[b, o]] += mass * (1 - y)
            sums.predicted[g, o, bins[b, o]] += mass * probability
    return sums


def assert_sums_close(computed, expected, rtol=FLOAT32):
    for name, a, b in zip(MetricSums._fields, computed, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=1e-12, err_msg=name)


def pad(batch, rows):
    rubbish = {"logits": np.nan, "labels": np.nan, "label_mask": 1, "weight": 0, "domain": 10**6}
    return {
        name: np.concatenate([array, np.full((rows, *array.shape[1:]), rubbish[name], array.dtype)])
        for name, array in batch.items()
    }


def test_sums_equal_a_loop_over_rows():
    batch = make_batch()
    assert_sums_close(sums_of(**batch), sum_in_a_loop(batch))


def test_padding_rows_change_nothing_whatever_they_hold():
    batch = make_batch()
    plain, padded = finish_metrics(sums_of(**batch), *NAMES), finish_metrics(sums_of(**pad(batch, 77)), *NAMES)
    # Partial sums are cut differently, so that the last bits may differ; no padding row can hide in 2e-6.
    assert padded == pytest.approx(plain, rel=FLOAT32)
    assert padded["rows"] == plain["rows"]


def test_masked_labels_change_nothing_whatever_they_hold():
    batch = make_batch()
    spoiled = dict(batch)
    for name in ("logits", "labels"):
        spoiled[name] = np.where(batch["label_mask"] > 0, batch[name], np.nan).astype(np.float32)
    assert_sums_close(sums_of(**spoiled), sums_of(**batch), rtol=0)


def test_batch_of_padding_alone_has_zero_sums_and_undefined_metrics():
    sums = sums_of(**pad({name: array[:0] for name, array in make_batch().items()}, 64))
    assert all(not np.asarray(array).any() for array in sums)
    metrics = finish_metrics(sums, *NAMES)
    assert metrics["rows"] == 0
    assert all(math.isnan(metrics[name]) for name in ("auc", "log_loss", "normalized_entropy", "calibration"))


def test_empty_domain_and_single_class_are_nan_for_themselves_alone():
    batch = make_batch()
    batch["domain"] = np.where(batch["domain"] == 1, 0, batch["domain"])
    batch["labels"][batch["domain"] == 2, 1] = 1
    metrics = finish_metrics(sums_of(**batch), *NAMES)
    assert metrics["news/click/rows"] == 0
    assert math.isnan(metrics["news/click/log_loss"])
    assert math.isnan(metrics["video/buy/auc"])
    assert math.isnan(metrics["video/buy/normalized_entropy"])
    assert metrics["video/buy/log_loss"] > 0
    assert 0.5 < metrics["auc"] < 1


def test_eight_parts_in_any_order_merge_to_the_whole():
    batch = make_batch(rows=1024)
    parts = [sums_of(**{name: array[i::8] for name, array in batch.items()}) for i in range(8)]
    assert_sums_close(functools.reduce(merge_metric_sums, parts), sums_of(**batch))
    on_host = [move_sums_to_host(part) for part in parts]
    # float64 sums of float32 numbers with few bits are exact for histograms and 1e-15 for the rest.
    forwards = functools.reduce(merge_metric_sums, on_host)
    assert_sums_close(forwards, functools.reduce(merge_metric_sums, on_host[::-1]), rtol=1e-14)
    assert forwards.positive.dtype == np.float64


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")
def test_rows_sharded_over_eight_devices_give_the_same_sums():
    batch = make_batch(rows=1024)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("host", "chip"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("host", "chip")))
    sharded = {name: jax.device_put(array, sharding) for name, array in batch.items()}
    assert_sums_close(sums_of(**sharded), sums_of(**batch))


def test_bins_never_descend_and_stay_inside_for_all_logits():
    rng = np.random.default_rng(0)
    spread = np.concatenate([rng.normal(size=20_000) * scale for scale in (1e-3, 1, 10, 1e4, 1e30)])
    ends = [-np.inf, np.inf, -60, 60, 0, -0.0, np.finfo(np.float32).max]
    logits = np.sort(np.concatenate([spread, ends]).astype(np.float32))
    above = np.nextafter(logits[:-2], np.float32(np.inf))  # the last two have no finite neighbour above
    neighbours = np.sort(np.concatenate([logits, above]))
    bins = np.asarray(jax.jit(compute_score_bins, static_argnums=1)(neighbours, 16_384))
    assert (np.diff(bins) >= 0).all()
    assert bins[0] == 0
    assert bins[-1] == 16_383
    finite = np.isfinite(neighbours)
    x = neighbours[finite].astype(np.float64)
    formula = np.clip(np.floor((x / (8 + np.abs(x)) + 1) / 2 * 16_384), 0, 16_383)
    assert np.abs(bins[finite] - formula).max() <= 1  # rounding at an edge


@pytest.mark.parametrize(("scale", "shift"), [(0.01, -3), (2, -4), (60, 0)])
def test_binned_auc_is_within_its_bound_of_the_exact_one(scale, shift):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(20_000, 1)) * scale + shift).astype(np.float32)
    labels = (rng.random((20_000, 1)) < 1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    ones = np.ones(20_000, np.float32)
    sums = compute(logits, labels, ones[:, None], ones, np.zeros(20_000, np.int32), domains=1, bins=16_384)
    metrics = finish_metrics(sums, ["click"], ["all"])
    exact = compute_auc(labels[:, 0], logits[:, 0])
    assert abs(metrics["auc"] - exact) <= metrics["auc_error_bound"]
    if scale == 2:
        assert metrics["auc_error_bound"] < 1e-4  # of a click model's usual spread of logits


def test_finished_metrics_equal_the_exact_ones():
    batch = make_batch(rows=4000)
    sums = compute(**batch, domains=DOMAINS)
    finished, exact = (
        finish_metrics(sums, *NAMES),
        compute_exact_metrics(**batch, objective_names=NAMES[0], domain_names=NAMES[1]),
    )
    assert finished.keys() == exact.keys()
    for name, value in exact.items():
        bound = finished[name + "_error_bound"] if name.endswith("auc") else None
        if name.endswith("auc"):
            assert abs(finished[name] - value) <= bound, name
        elif not name.endswith("error_bound"):
            assert finished[name] == pytest.approx(value, rel=FLOAT32), name


@pytest.mark.parametrize("logit", [-60.0, 60.0])
def test_extreme_logits_give_finite_sums(logit):
    batch = make_batch(rows=64, unit_weights=True)
    batch["logits"] = np.full_like(batch["logits"], logit)
    sums = sums_of(**batch)
    np.testing.assert_allclose(sums.loss_sum, loss_of_constant_logit(batch, logit), rtol=FLOAT32)
    assert all(np.isfinite(np.asarray(array)).all() for array in sums)


def loss_of_constant_logit(batch, logit):
    wrong = batch["labels"] if logit < 0 else 1 - batch["labels"]
    counted = (wrong * batch["label_mask"])[:, None, :] * (batch["domain"][:, None] == np.arange(DOMAINS))[:, :, None]
    return 60 * counted.sum(axis=0)


def test_a_counted_nan_is_shown_in_every_mean():
    batch = make_batch()
    row = int(np.flatnonzero((batch["weight"] > 0) & (batch["label_mask"][:, 0] > 0))[0])
    batch["logits"][row, 0] = np.nan
    metrics = finish_metrics(sums_of(**batch), *NAMES)
    for name in ("auc", "log_loss", "normalized_entropy", "click/auc"):
        assert math.isnan(metrics[name]), name
    assert not math.isnan(metrics["buy/auc"])


def test_accumulator_keeps_counts_that_float32_loses():
    big = move_sums_to_host(sums_of(**make_batch(rows=8, unit_weights=True)))
    step = MetricSums(*(jnp.full(array.shape, 2**22 + 1, jnp.float32) for array in big))
    accumulator = MetricAccumulator(batch_rows=2**22 + 1)
    for _ in range(40):
        accumulator.add(step)
    assert (accumulator.result().weight == 40 * (2**22 + 1)).all()
    in_float32 = functools.reduce(merge_metric_sums, [step] * 40)
    assert (np.asarray(in_float32.weight) != 40 * (2**22 + 1)).all()  # what the accumulator is there for


def test_accumulator_of_small_batches_equals_the_loop():
    batches = [make_batch(rows=50, seed=seed) for seed in range(70)]
    accumulator = MetricAccumulator(batch_rows=50)
    for batch in batches:
        accumulator.add(sums_of(**batch))
    expected = functools.reduce(merge_metric_sums, [sum_in_a_loop(batch) for batch in batches])
    assert_sums_close(accumulator.result(), expected, rtol=4e-6)  # and 64 steps added in float32
    assert_sums_close(accumulator.result(), expected, rtol=4e-6)  # asking twice adds nothing twice


def test_calibration_curve_of_sums_speaks_of_the_rows_asked_for():
    batch = make_batch(rows=3000)
    sums = compute(**batch, domains=DOMAINS)
    for domain in (None, 2):
        kept = (batch["domain"] == domain if domain is not None else np.full(3000, True)) & (batch["weight"] > 0)
        mass = (batch["weight"] * batch["label_mask"][:, 1])[kept].astype(np.float64)
        curve = finish_calibration_curve(sums, objective=1, domain=domain, bins=10)
        assert len(curve) == 10
        assert sum(p["weight"] for p in curve) == pytest.approx(mass.sum(), rel=FLOAT32)
        observed = sum(p["weight"] * p["observed"] for p in curve)
        assert observed == pytest.approx((mass * batch["labels"][kept, 1]).sum(), rel=FLOAT32)
        predicted = sum(p["weight"] * p["predicted"] for p in curve)
        assert predicted == pytest.approx((mass / (1 + np.exp(-batch["logits"][kept, 1]))).sum(), rel=FLOAT32)


def test_sums_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not merge"):
        merge_metric_sums(init_metric_sums(1, 1, 8), init_metric_sums(1, 1, 16))
    with pytest.raises(ValueError, match="2 domains and 1 objectives"):
        finish_metrics(init_metric_sums(1, 1, 8), ["click"], ["a", "b"])
    with pytest.raises(ValueError, match="no metric sums"):
        MetricAccumulator(8).result()


def test_sums_by_sort_equal_those_by_addition(monkeypatch):
    batch = make_batch(rows=300)
    batch["logits"][3, 0], batch["weight"][3], batch["label_mask"][3] = np.nan, 1, 1
    added = sums_of(**batch)
    monkeypatch.setattr(accumulate, "sum_by_place", sum_by_sort)
    by_sort = jax.jit(functools.partial(compute_metric_sums, domains=DOMAINS, bins=BINS))(**batch)
    for a, b in zip(added, by_sort, strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=FLOAT32)  # nan in the same places: those of one domain and objective
    assert np.isnan(np.asarray(by_sort.loss_sum)).sum() == 1
