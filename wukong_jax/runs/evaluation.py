"""Evaluates a split: computes logits on the devices and metrics in float64 on the host."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import BlockSource, Position, iterate_batches
from wukong_jax.data.blocks.row_order import RowOrder
from wukong_jax.errors import UserError
from wukong_jax.metrics.accumulate import (
    MetricAccumulator,
    MetricSums,
    compute_metric_sums,
    finish_calibration_curve,
    finish_metrics,
)
from wukong_jax.metrics.calibration import CalibrationCurve, compute_calibration_curve
from wukong_jax.metrics.exact_metrics import compute_exact_metrics
from wukong_jax.runs.rows import RunData
from wukong_jax.schema import Schema
from wukong_jax.sharding.mesh import MESH_AXES, batch_sharding, find_own_rows, gather_rows, place_own_rows
from wukong_jax.sharding.team import find_team
from wukong_jax.training.run import Run
from wukong_jax.training.state import TrainState

Predict = Callable[[Batch], jax.Array]  # batch on devices -> logits [B, O]
SeeBatch = Callable[[Batch, Any], None]  # (host batch, its logits [B, O])
T = TypeVar("T")
KEPT_COLUMNS = ("labels", "label_mask", "weight", "domain", "group")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of one split."""

    metrics: dict[str, float]  # see `metrics.metric_names`
    calibration: CalibrationCurve  # of the first objective


def build_predict(run: Run, state: TrainState) -> Predict:
    """Returns the function from a batch on devices to logits [B, O] with the given state."""
    return lambda batch: run.predict_step(state.params, state.statistics, state.tables, batch)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Copies a batch to the mesh, sharded over its devices; columns that only the host reads become None.

    If several processes share the mesh, each passes its own rows, see `find_own_rows`.
    """
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        send = functools.partial(jax.make_array_from_process_local_data, sharding)
    else:
        send = functools.partial(place_own_rows, mesh)
    return jax.tree.map(send, batch._replace(timestamp=None, group=None))


def read_in_order(
    source: BlockSource, schema: Schema, batch_size: int, own_rows: np.ndarray | None = None, lanes: int = 1
) -> Iterator[Batch]:
    """Yields the batches of a whole split, of which `own_rows`; the last one is padded.

    Args:
      source: rows of the split.
      schema: schema of the rows.
      batch_size: B.
      own_rows: positions of this process's rows in a batch, see `find_own_rows`; None: all rows.
      lanes: contiguous ranges of the split that a batch takes equally many rows of; 1 keeps the order of the files.
    """
    start = Position(epoch=0, seed=0, rows_consumed=0)
    batches = iterate_batches(
        source, schema, batch_size, position=start, shuffle=False, epochs=1, own_rows=own_rows, lanes=lanes
    )
    for batch, _ in batches:
        yield batch


def predict_batches(predict: Predict, batches: Iterable[Batch], mesh: Mesh) -> Iterator[tuple[Batch, jax.Array]]:
    """Yields (host batch, logits [B, O] float32 on devices), computing one batch ahead.

    If several processes share the mesh, each passes its own rows, and gets the `KEPT_COLUMNS` and logits of all rows.
    """
    scored = predict_placed(predict, _place_batches(batches, mesh))
    if batch_sharding(mesh).is_fully_addressable:
        yield from one_behind((batch, logits) for batch, _, logits in scored)
        return
    shared = ((_share_columns(batch, mesh), logits.addressable_data(0)) for batch, _, logits in scored)
    for batch, logits in one_behind(shared):
        yield _read_columns(batch), logits


def predict_placed(
    predict: Predict, batches: Iterable[tuple[Batch, Batch]]
) -> Iterator[tuple[Batch, Batch, jax.Array]]:
    """Yields (host batch, the same on the devices, logits [B, O] float32 on every device) for each of the first two."""
    for number, (batch, placed) in enumerate(batches, 1):
        find_team().mark(f"evaluating batch {number}", busy=number == 1)  # the first is compiled
        yield batch, placed, predict(placed)


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yields each item when the next one has been started."""
    iterator = iter(items)
    for waiting in itertools.islice(iterator, 1):
        for item in iterator:
            yield waiting
            waiting = item
        yield waiting


def _place_batches(batches: Iterable[Batch], mesh: Mesh) -> Iterator[tuple[Batch, Batch]]:
    for batch in batches:
        yield batch, put_batch(batch, mesh)


def _share_columns(batch: Batch, mesh: Mesh) -> Batch:
    """Returns the whole batch on every device, with the columns that metrics read and no others."""
    own = {name: place_own_rows(mesh, getattr(batch, name)) for name in KEPT_COLUMNS}
    nothing: dict[str, Any] = dict.fromkeys(Batch._fields) | {"extras": {}}
    return Batch(**nothing | gather_rows(mesh, own))


def _read_columns(batch: Batch) -> Batch:
    kept: dict[str, Any] = {name: np.asarray(getattr(batch, name)) for name in KEPT_COLUMNS}
    return batch._replace(**kept)


def evaluate_split(
    predict: Predict,
    source: BlockSource,
    schema: Schema,
    batch_size: int,
    mesh: Mesh,
    exact_rows: int,
    see: SeeBatch | None = None,
    fit: Callable[[Batch], Batch] = lambda batch: batch,
    all_rows: bool = False,
) -> Evaluation:
    """Evaluates a split. Where several processes share the mesh, each reads contiguous ranges of it, one a device.

    Args:
      predict: function from a batch on devices to logits [B, O] float32.
      source: rows of the split.
      schema: resolved schema of the rows.
      batch_size: B.
      mesh: mesh over which batches are sharded.
      exact_rows: splits of at most this many rows get the exact AUC (and GAUC, if the schema names a group column)
        from logits kept in memory; larger splits get the binned AUC with its error bound, and no GAUC.
      see: called with each scored batch, of which `list_ranges` says what rows it has.
      fit: chooses the places of a batch's bags.
      all_rows: whether any process has `see`. Equal in every process, all of which then get all rows.

    Returns:
      The metrics by name, and the calibration curve.
    """
    own = find_own_rows(mesh, batch_size)
    lanes = len(list_ranges(source, mesh)) - 1
    batches = map(fit, read_in_order(source, schema, batch_size, own, lanes))
    objectives = [label.name for label in schema.labels]
    domains = list(schema.domain_values) or ["all"]
    binned = source.rows > exact_rows
    if binned and lanes > 1 and see is None and not all_rows:
        placed = predict_placed(predict, _place_batches(batches, mesh))
        return _evaluate_where_rows_are(placed, batch_size, objectives, domains, mesh)
    scored = predict_batches(predict, batches, mesh)
    if see is not None:
        scored = _show_batches(scored, see)
    if binned:
        return _evaluate_binned(scored, batch_size, objectives, domains)
    return _evaluate_exactly(scored, objectives, domains, grouped=schema.group is not None)


def list_ranges(source: BlockSource, mesh: Mesh) -> list[int]:
    """Returns the first row of each range of a split that batches of `evaluate_split` take as many rows of.

    Args:
      source: rows of the split.
      mesh: mesh over which batches are sharded.

    Returns:
      The first rows, and at the end the number of rows.
    """
    ranges = 1 if find_own_rows(mesh, mesh.size) is None else mesh.size
    order = RowOrder(source, seed=0, shuffle=False, window_rows=1, lanes=ranges)
    return [order.lane_start(number) for number in range(ranges + 1)]


def _show_batches(scored: Iterator[tuple[Batch, jax.Array]], see: SeeBatch) -> Iterator[tuple[Batch, jax.Array]]:
    for batch, logits in scored:
        see(batch, logits)
        yield batch, logits


def evaluate_state(
    run: Run, data: RunData, state: TrainState, split: str, see: SeeBatch | None = None, all_rows: bool = False
) -> Evaluation:
    """Evaluates a state of a run on one split.

    Args:
      run: the run.
      data: its rows.
      state: the state.
      split: name of the split.
      see: called with each scored batch.
      all_rows: see `evaluate_split`.

    Raises:
      UserError: the data has no such split.
    """
    source, exact_rows = find_split(data, split), run.config.training.exact_auc_rows
    predict, size = build_predict(run, state), run.evaluation_batch_size
    return evaluate_split(predict, source, run.schema, size, run.mesh, exact_rows, see, run.place_bags, all_rows)


def find_split(data: RunData, split: str) -> BlockSource:
    """Returns the rows of a split, including joined extras.

    Raises:
      UserError: the data has no such split.
    """
    if split not in data.splits:
        raise UserError(f"--split = {split!r}: the data has only {', '.join(data.splits)}; choose one of them")
    return data.source(split)


def collect_rows(scored: Iterable[tuple[Batch, jax.Array]]) -> dict[str, np.ndarray]:
    """Concatenates the inputs of the metrics over all batches: `KEPT_COLUMNS` and "logits" [B, O]."""
    parts: dict[str, list[Any]] = {name: [] for name in (*KEPT_COLUMNS, "logits")}
    for batch, logits in scored:
        parts["logits"].append(np.asarray(logits))
        for name in KEPT_COLUMNS:
            parts[name].append(getattr(batch, name))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _evaluate_exactly(
    scored: Iterator[tuple[Batch, jax.Array]], objectives: list[str], domains: list[str], grouped: bool
) -> Evaluation:
    rows = collect_rows(scored)
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


def _evaluate_where_rows_are(
    scored: Iterator[tuple[Batch, Batch, jax.Array]],
    batch_size: int,
    objectives: list[str],
    domains: list[str],
    mesh: Mesh,
) -> Evaluation:
    """Sums the metrics of each device's rows there, and the sums of all devices; no rows are sent."""
    compute = _build_sums(mesh, len(domains))
    accumulator = MetricAccumulator(batch_size)
    sums = (
        compute(logits, placed.labels, placed.label_mask, placed.weight, placed.domain) for _, placed, logits in scored
    )
    for own in one_behind(jax.tree.map(lambda array: array.addressable_data(0), of_batch) for of_batch in sums):
        # XLA:CPU takes 32 computations in flight on a device. Processes of two devices that shared collectives hung
        # with 34 dispatched ahead, not with 30; those of one device never did. The watch over processes counts batches.
        accumulator.add(jax.block_until_ready(own))
    total = accumulator.result()
    return Evaluation(finish_metrics(total, objectives, domains), finish_calibration_curve(total))


@functools.lru_cache(maxsize=4)
def _build_sums(mesh: Mesh, domains: int) -> Any:
    def add_up(logits: jax.Array, *columns: jax.Array) -> MetricSums:
        labels, label_mask, weight, domain = columns
        return jax.lax.psum(compute_metric_sums(logits, labels, label_mask, weight, domain, domains), MESH_AXES)

    by_rows = batch_sharding(mesh).spec
    # Not checked: histograms start as zeros, which JAX takes for the same on all devices.
    return jax.jit(jax.shard_map(add_up, mesh=mesh, in_specs=by_rows, out_specs=PartitionSpec(), check_vma=False))
