"""Metric sums that add up over steps, devices and hosts, per domain and objective.

Each batch is reduced to sums on the device (`compute_metric_sums`, inside jit). Sums merge by addition, so order and
sharding do not matter. Metrics are computed from the sums once, at the end, on the host.

The sums of one step are float32, in which counts are exact below 2^24. That is too few for 10^9 rows, so
`MetricAccumulator` adds only a few steps on the device before it moves the sums to float64 on the host.

Scores are binned by s = logit / (8 + |logit|), which maps all logits to (-1, 1) and is steepest at 0. With 16384
bins, a bin is 0.001 logits wide at 0, 0.004 at 8 and 0.07 at 60, and no logit is out of range.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.metrics.auc import compute_auc_from_histograms
from wukong_jax.metrics.calibration import (
    CalibrationCurve,
    compute_calibration,
    compute_calibration_curve_from_histograms,
)
from wukong_jax.metrics.metric_names import name_metrics
from wukong_jax.metrics.normalized_entropy import compute_normalized_entropy, compute_row_log_loss
from wukong_jax.metrics.sums_by_place import sum_by_place

Array = Any  # jax.Array on devices, numpy on the host

DEFAULT_BINS = 16_384
_ROWS_OF_A_PARTIAL_SUM = 256
_ROWS_BETWEEN_DRAINS = 2**22
_STEPS_BETWEEN_DRAINS = 64
_HALF_RANGE_LOGIT = 8.0  # the logit at which s is 1/2; a power of two, so that the division is exact


class MetricSums(NamedTuple):
    """Sums over observed rows of positive weight; float32 on devices, float64 on the host."""

    rows: Array  # [G, O] number of observed rows of positive weight
    weight: Array  # [G, O]
    loss_sum: Array  # [G, O] weighted log loss, nats
    label_sum: Array  # [G, O]
    prediction_sum: Array  # [G, O] weighted predicted probability
    positive: Array  # [G, O, bins] weight of positives by score
    negative: Array  # [G, O, bins] weight of negatives by score
    predicted: Array  # [G, O, bins] weighted predicted probability by score


def compute_metric_sums(
    logits: jax.Array,
    labels: jax.Array,
    label_mask: jax.Array,
    weight: jax.Array,
    domain: jax.Array,
    domains: int,
    bins: int = DEFAULT_BINS,
) -> MetricSums:
    """Computes the sums of one batch; pure, for use inside jit, also with rows sharded over devices.

    A row counts for an objective if its weight and its label mask are above 0. The values of other rows have no
    effect, even if they are nan. If the logit of a counted row is nan, loss and AUC are nan.

    Args:
      logits: [B, O], any float type.
      labels: [B, O] float32 in [0, 1].
      label_mask: [B, O] float32, 1 = observed.
      weight: [B] float32, 0 = padding.
      domain: [B] int32 in [0, G).
      domains: G.
      bins: number of bins of the score histograms; must be equal for all sums that are merged.

    Returns:
      The sums in float32. The three histograms take 12 * G * O * bins bytes.
    """
    mass = weight[:, None].astype(jnp.float32) * label_mask.astype(jnp.float32)
    counted = mass > 0
    logits = jnp.where(counted, logits.astype(jnp.float32), 0.0)
    labels = jnp.where(counted, labels.astype(jnp.float32), 0.0)
    mass = jnp.where(counted, mass, 0.0)
    domain = jnp.where(counted.any(axis=1), domain, 0)

    probability = jax.nn.sigmoid(logits)
    loss = compute_row_log_loss(logits, labels)
    per_row = jnp.stack([counted.astype(jnp.float32), mass, mass * loss, mass * labels, mass * probability], axis=-1)
    sums = _sum_by_domain(per_row, domain, domains)

    histogram_mass = jnp.where(jnp.isnan(logits), jnp.nan, mass)
    per_score = jnp.stack(
        [histogram_mass * labels, histogram_mass * (1.0 - labels), histogram_mass * probability], axis=-1
    )
    objective = jnp.arange(logits.shape[1])[None, :]
    places = domain[:, None], objective, compute_score_bins(logits, bins)
    histograms = sum_by_place(places, per_score, (domains, logits.shape[1], bins))
    return MetricSums(*(sums[..., i] for i in range(5)), *(histograms[..., i] for i in range(3)))


def compute_score_bins(logits: jax.Array, bins: int) -> jax.Array:
    """Returns the bin of each logit; monotone in the logit, so that binning cannot reverse the order of two rows.

    Args:
      logits: [...] float32; nan goes to bin 0.
      bins: number of bins.

    Returns:
      [...] int32 in [0, bins).
    """
    # 1 - 1 / (1 + |x| / 8) = |x| / (8 + |x|), in a form in which every operation stays monotone after rounding.
    magnitude = 1.0 - 1.0 / (1.0 + jnp.abs(logits) / _HALF_RANGE_LOGIT)
    score = jnp.where(logits < 0, -magnitude, magnitude)
    position = jnp.where(jnp.isnan(score), 0.0, (score + 1.0) * (0.5 * bins))
    return jnp.clip(position.astype(jnp.int32), 0, bins - 1)


def init_metric_sums(domains: int, objectives: int, bins: int = DEFAULT_BINS) -> MetricSums:
    """Returns the sums of zero rows, float64 on the host, to start `merge_metric_sums` from."""
    scalars = [np.zeros((domains, objectives)) for _ in range(5)]
    return MetricSums(*scalars, *(np.zeros((domains, objectives, bins)) for _ in range(3)))


def merge_metric_sums(a: MetricSums, b: MetricSums) -> MetricSums:
    """Adds two sums: on the devices in float32 if both are there, else on the host in float64.

    Args:
      a: sums of some rows.
      b: sums of other rows, with the same domains, objectives and bins.

    Returns:
      The sums over the rows of both.

    Raises:
      ValueError: the shapes differ.
    """
    if a.positive.shape != b.positive.shape:
        raise ValueError(f"metric sums of shapes {a.positive.shape} and {b.positive.shape} [G, O, bins] do not merge")
    if isinstance(a.weight, np.ndarray) != isinstance(b.weight, np.ndarray):
        a, b = move_sums_to_host(a), move_sums_to_host(b)
    return MetricSums(*(x + y for x, y in zip(a, b, strict=True)))


def move_sums_to_host(sums: MetricSums) -> MetricSums:
    """Copies sums to the host as float64 arrays."""
    return MetricSums(*(np.asarray(array, np.float64) for array in jax.device_get(sums)))


def finish_metrics(sums: MetricSums, objective_names: Sequence[str], domain_names: Sequence[str]) -> dict[str, float]:
    """Computes metrics from sums, in float64 on the host.

    Args:
      sums: sums over all rows to evaluate.
      objective_names: O names, in the order of the labels.
      domain_names: G names; any single name if the data has no domains.

    Returns:
      Metrics by name, see `metric_names.name_metrics`. Each group has `auc` (binned) and `auc_error_bound`,
      `log_loss` (nats), `normalized_entropy`, `calibration`, `base_rate` and `rows`. Metrics that are undefined for
      the rows (no rows, one class only) are nan.

    Raises:
      ValueError: the names do not match the sums' axes.
    """
    sums = move_sums_to_host(sums)
    if sums.weight.shape != (len(domain_names), len(objective_names)):
        raise ValueError(
            f"metric sums of shape {sums.weight.shape} [G, O] given names of {len(domain_names)} domains and "
            f"{len(objective_names)} objectives"
        )
    return name_metrics(lambda g, o: _finish_slice(_take_slice(sums, g, o)), objective_names, domain_names)


def finish_calibration_curve(
    sums: MetricSums, objective: int = 0, domain: int | None = None, bins: int = 20
) -> CalibrationCurve:
    """Computes the calibration curve of one objective, over one domain or over all (None)."""
    one = _take_slice(move_sums_to_host(sums), domain, objective)
    return compute_calibration_curve_from_histograms(one.positive, one.negative, one.predicted, bins)


class MetricAccumulator:
    """Accumulates sums over many steps: first on the device, without blocking, then in float64 on the host."""

    def __init__(self, batch_rows: int) -> None:
        """Creates an empty accumulator.

        Args:
          batch_rows: B; limits the steps that are summed in float32 on the device (at most 2^22 rows and 64 steps).
        """
        self._steps_between_drains = max(1, min(_STEPS_BETWEEN_DRAINS, _ROWS_BETWEEN_DRAINS // batch_rows))
        self._on_device: MetricSums | None = None
        self._on_host: MetricSums | None = None
        self._steps = 0

    def add(self, sums: MetricSums) -> None:
        """Adds the sums of one batch."""
        self._on_device = sums if self._on_device is None else _merge_on_device(self._on_device, sums)
        self._steps += 1
        if self._steps >= self._steps_between_drains:
            self._drain()

    def result(self) -> MetricSums:
        """Returns the sums of all steps so far, float64 on the host.

        Raises:
          ValueError: nothing was added.
        """
        self._drain()
        if self._on_host is None:
            raise ValueError("no metric sums were added")
        return self._on_host

    def _drain(self) -> None:
        if self._on_device is not None:
            drained = move_sums_to_host(self._on_device)
            self._on_host = drained if self._on_host is None else merge_metric_sums(self._on_host, drained)
        self._on_device, self._steps = None, 0


@jax.jit
def _merge_on_device(a: MetricSums, b: MetricSums) -> MetricSums:
    return merge_metric_sums(a, b)


def _take_slice(sums: MetricSums, domain: int | None, objective: int) -> MetricSums:
    return MetricSums(*(a[:, objective].sum(axis=0) if domain is None else a[domain, objective] for a in sums))


def _finish_slice(one: MetricSums) -> dict[str, float]:
    weight, labels = float(one.weight), float(one.label_sum)
    log_loss = float(one.loss_sum) / weight if weight > 0 else float("nan")
    base_rate = labels / weight if weight > 0 else float("nan")
    auc = compute_auc_from_histograms(one.positive, one.negative)
    return {
        "auc": auc.auc,
        "auc_error_bound": auc.error_bound,
        "log_loss": log_loss,
        "normalized_entropy": compute_normalized_entropy(log_loss, base_rate),
        "calibration": compute_calibration(float(one.prediction_sum), labels),
        "base_rate": base_rate,
        "rows": float(one.rows),
    }


def _sum_by_domain(per_row: jax.Array, domain: jax.Array, domains: int) -> jax.Array:
    """Sums [B, O, k] to [G, O, k] by partial sums of about 256 rows, since one long float32 sum loses precision."""
    rows = per_row.shape[0]
    parts = -(-rows // _ROWS_OF_A_PARTIAL_SUM)
    places = jnp.arange(rows) % parts, domain
    return sum_by_place(places, per_row, (parts, domains)).sum(axis=0)
