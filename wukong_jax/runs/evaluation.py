"""Scoring a split: logits from the devices, metrics formed in float64 on the host."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.data.blocks.loader import Position
from wukong_jax.data.blocks.loader import iterate_batches
from wukong_jax.metrics.accumulate import (
    MetricAccumulator,
    compute_metric_sums,
    finish_calibration_curve,
    finish_metrics,
)
from wukong_jax.metrics.calibration import CalibrationCurve
from wukong_jax.metrics.calibration import compute_calibration_curve
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.schema import Schema
from wukong_jax.sharding.mesh import batch_sharding

Predict = Callable[[Batch], jax.Array]  # batch on devices -> logits [B, O]
_KEPT = ("labels", "label_mask", "weight", "domain", "group")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What scoring a split gives."""

    metrics: dict[str, float]  # see `metrics.metric_names`
    calibration: CalibrationCurve  # of the first objective


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Sends a batch to the mesh, split over its devices; the columns only the host reads become None.

    Where several processes share the mesh, each gives its own slice of the global batch.
    """
    sharding = batch_sharding(mesh)
    send = functools.partial(jax.make_array_from_process_local_data, sharding)
    return jax.tree.map(send, batch._replace(timestamp=None, group=None))


def read_in_order(source: BlockSource, schema: Schema, batch_size: int) -> Iterator[Batch]:
    """Batches of a whole split in file order, the last padded."""
    start = Position(epoch=0, seed=0, rows_consumed=0)
    for batch, _ in iterate_batches(source, schema, batch_size, position=start, shuffle=False, epochs=1):
        yield batch


def predict_batches(predict: Predict, batches: Iterable[Batch], mesh: Mesh) -> Iterator[tuple[Batch, jax.Array]]:
    """Yields (host batch, logits [B, O] float32 on devices), computing one batch ahead of the one yielded."""
    waiting: tuple[Batch, jax.Array] | None = None
    for batch in batches:
        ahead = (batch, predict(put_batch(batch, mesh)))
        if waiting is not None:
            yield waiting
        waiting = ahead
    if waiting is not None:
        yield waiting


def evaluate_split(
    predict: Predict, source: BlockSource, schema: Schema, batch_size: int, mesh: Mesh, exact_rows: int
) -> Evaluation:
    """Scores every row of a split.

    Args:
      predict: batch on devices -> logits [B, O] float32.
      source: the split.
      schema: what its rows are.
      batch_size: B.
      mesh: where batches go.
      exact_rows: splits of up to so many rows keep their logits and get the exact AUC (and GAUC, where the
        schema names a group column); larger ones the binned AUC with its error bound, and no GAUC.

    Returns:
      Metrics by name, and the calibration curve.
    """
    scored = predict_batches(predict, read_in_order(source, schema, batch_size), mesh)
    objectives = [label.name for label in schema.labels]
    domains = list(schema.domain_values) or ["all"]
    if source.rows > exact_rows:
        return _evaluate_binned(scored, batch_size, objectives, domains)
    return _evaluate_exactly(scored, objectives, domains, grouped=schema.group is not None)


def _evaluate_exactly(
    scored: Iterator[tuple[Batch, jax.Array]], objectives: list[str], domains: list[str], grouped: bool
) -> Evaluation:
    parts: dict[str, list[Any]] = {name: [] for name in (*_KEPT, "logits")}
    for batch, logits in scored:
        parts["logits"].append(np.asarray(logits))
        for name in _KEPT:
            parts[name].append(getattr(batch, name))
    rows = {name: np.concatenate(part) for name, part in parts.items()}
    group = rows.pop("group")
    metrics = compute_exact_metrics(
        **rows, objective_names=objectives, domain_names=domains, group=group if grouped else None
    )
    mass = rows["weight"] * rows["label_mask"][:, 0]
    return Evaluation(metrics, compute_calibration_curve(rows["labels"][:, 0], rows["logits"][:, 0], mass))


def _evaluate_binned(
    scored: Iterator[tuple[Batch, jax.Array]], batch_size: int, objectives: list[str], domains: list[str]
) -> Evaluation:
    compute = jax.jit(compute_metric_sums, static_argnames=("domains", "bins"))
    accumulator = MetricAccumulator(batch_size)
    for batch, logits in scored:
        columns = (batch.labels, batch.label_mask, batch.weight, batch.domain)
        accumulator.add(compute(logits, *columns, domains=len(domains)))
    sums = accumulator.result()
    return Evaluation(finish_metrics(sums, objectives, domains), finish_calibration_curve(sums))
