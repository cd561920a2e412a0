"""Permutation importance: the increase of each task's log loss when the values of a feature are shuffled.

Lattice Filter (paper 3.2.2) ranks features by permutation importance; the details are our choice:

* A feature is one column of the schema: a number, an id, or a bag or sequence, whose slots move together.
* A random sample of rows is drawn from a split. In each shuffle, every row gets the feature's value from another row by
  a random permutation; all else stays. All features share the permutation of a shuffle, for a fair comparison.
* importance = mean of (log loss with the feature shuffled - log loss without shuffling), in nats. The mean is over
  shuffles and over the rows in which the objective was observed, with the rows' weights. A feature that the model does
  not read has exactly 0. The standard error is that of the mean over rows of each row's mean increase over shuffles.
* The tasks are the objectives over all domains and, if the data has domains, the portfolios: an objective over the rows
  of one domain. Values are shuffled over the rows of all domains.

The model is restored once and compiled once. The cost is rows x features x shuffles predictions.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from wukong_jax.data.blocks.batch import Batch, Columns
from wukong_jax.data.blocks.loader import BlockSource, Position, batch_rows, iterate_batches
from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.errors import UserError
from wukong_jax.metrics.normalized_entropy import compute_row_log_loss
from wukong_jax.ranges import AtLeast, check_ranges
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.schema import Schema
from wukong_jax.sharding.mesh import batch_sharding, replicated

_SHUFFLE = 211  # number of the random stream
_NO_FEATURE = -1


@dataclasses.dataclass(frozen=True)
class ShuffleSettings:
    """Rows to use and number of shuffles."""

    split: str = "validation"
    rows: Annotated[int, AtLeast(2)] = 65_536  # number of rows drawn from the split; all if it has fewer
    shuffles: Annotated[int, AtLeast(1)] = 3
    seed: Annotated[int, AtLeast(0)] = 0  # of the choice of rows and of the shuffles

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class TaskImportance:
    """Importances for some tasks: O objectives, or O portfolios."""

    tasks: tuple[str, ...]  # O names
    importance: np.ndarray  # [F, O] float64, nats
    standard_error: np.ndarray  # [F, O] float64, of the mean over rows
    log_loss: np.ndarray  # [O] float64, nats, without shuffling
    rows: np.ndarray  # [O] int64, number of rows in which the task was observed


@dataclasses.dataclass(frozen=True)
class RunImportance:
    """Importances of a run's features."""

    features: tuple[str, ...]  # F names: dense columns, then id columns in the order of their slots
    objectives: TaskImportance
    portfolios: TaskImportance | None  # None if the data has one domain; portfolios without rows are left out
    settings: ShuffleSettings
    rows: int  # number of rows read
    step: int  # training step of the checkpoint


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums over rows, per domain and objective; w: weight of a row, d: its mean increase of loss over shuffles."""

    rise: np.ndarray  # [F, ...] float64, sum of w d
    squared_rise: np.ndarray  # [F, ...] float64, sum of (w d)^2
    weighted_rise: np.ndarray  # [F, ...] float64, sum of w^2 d
    loss: np.ndarray  # [...] float64, sum of w times the loss
    weight: np.ndarray  # [...] float64, sum of w
    squared_weight: np.ndarray  # [...] float64, sum of w^2
    rows: np.ndarray  # [...] int64


def list_features(schema: Schema) -> tuple[str, ...]:
    """Returns the F features of a schema: dense columns, then id columns in the order of their slots."""
    return tuple([column.name for column in schema.dense] + [column.name for column in schema.id_columns])


def check_features(measured: RunImportance, schema: Schema) -> None:
    """Checks that the importances are of this schema's features.

    Raises:
      UserError: the features differ.
    """
    features = list_features(schema)
    if measured.features != features:
        strange = min(set(measured.features) ^ set(features), default="their order")
        raise UserError(
            f"importance: its {len(measured.features)} features are not the run's {len(features)} (first difference: "
            f"{strange}); give an importance.json of this run, or measure again"
        )


def measure_importance(
    opened: OpenRun, settings: ShuffleSettings, say: Callable[[str], None] = lambda text: None
) -> RunImportance:
    """Shuffles each feature of a run and measures the increases of its losses.

    Args:
      opened: the run, restored at the checkpoint to evaluate.
      settings: rows to use and number of shuffles.
      say: called with a line of progress after each batch.

    Returns:
      The importances.

    Raises:
      UserError: the split does not exist, or an objective is observed in none of the rows read.
    """
    run = opened.run
    if settings.split not in opened.data.splits:
        known = ", ".join(opened.data.splits)
        raise UserError(f"split = {settings.split!r}: the data has only {known}; choose one of them")
    rows = draw_rows(opened.data.source(settings.split), run.schema, settings)
    sums = _sum_rises(opened, rows, settings, say)
    objectives = tuple(label.name for label in run.schema.labels)
    for objective, count in zip(objectives, sums.rows.sum(axis=0), strict=True):
        if count == 0:
            raise UserError(
                f"objective {objective!r}: observed in none of the {len(rows['weight'])} rows of split "
                f"{settings.split!r} that were read; read more rows, or another split"
            )
    domains = run.schema.domain_values
    return RunImportance(
        features=list_features(run.schema),
        objectives=_form_objectives(sums, objectives),
        portfolios=_form_portfolios(sums, domains, objectives) if len(domains) > 1 else None,
        settings=settings,
        rows=len(rows["weight"]),
        step=int(opened.state.step),
    )


def draw_rows(source: BlockSource, schema: Schema, settings: ShuffleSettings) -> Columns:
    """Draws rows of a split without repetition, in random order; rows of weight 0 are skipped.

    Only as many random blocks are read as are needed.

    Args:
      source: the split.
      schema: schema of its rows.
      settings: number of rows, and the seed.

    Returns:
      Arrays [rows, ...] by column name as in a block, with the columns joined to the rows.

    Raises:
      UserError: fewer than two rows have a weight above 0.
    """
    parts: list[dict[str, np.ndarray]] = []
    missing = settings.rows
    drawn = iterate_batches(
        source,
        schema,
        min(settings.rows, 8192),
        position=Position(epoch=0, seed=settings.seed, rows_consumed=0),
        shuffle=True,
        epochs=1,
    )
    for batch, _ in drawn:
        kept = np.flatnonzero(batch.weight > 0)[:missing]
        columns = {name: getattr(batch, name) for name in schema.column_shapes()} | dict(batch.extras)
        parts.append({name: array[kept] for name, array in columns.items()})
        missing -= len(kept)
        if not missing:
            break
    drawn.close()
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(rows["weight"]) < 2:
        raise UserError(f"split = {settings.split!r}: has fewer than 2 rows with weight; choose another split")
    return rows


def build_move(schema: Schema) -> Callable[[Batch, Batch, Any], Batch]:
    """Builds a pure function that replaces one feature of a batch by its values in other rows.

    Returns:
      (batch, others, feature) -> batch, where `feature` [] int32 is an index into `list_features`, -1 for none. All
      slots of the feature come from the [B] rows of `others`, all else from `batch`.
    """
    feature_of_dense = np.arange(len(schema.dense))
    lengths = [column.max_length for column in schema.id_columns]
    feature_of_slot = len(schema.dense) + np.repeat(np.arange(len(lengths)), lengths)

    def move(batch: Batch, others: Batch, feature: Any) -> Batch:
        dense = jnp.where(feature_of_dense == feature, others.dense, batch.dense)
        ids = jnp.where(feature_of_slot == feature, others.ids, batch.ids)
        return batch._replace(dense=dense, ids=ids)

    return move


def compute_losses(logits: jax.Array, batch: Batch) -> jax.Array:
    """Returns log losses times weight, [B, O] float32; 0 where an objective is not observed."""
    mass = batch.label_mask * batch.weight[:, None]
    return jnp.where(mass > 0, mass * compute_row_log_loss(logits, batch.labels), 0.0)


def sum_by_domain(losses: jax.Array, batch: Batch, domains: int) -> jax.Array:
    """Computes the sums per domain that a weighted mean and its standard error need.

    Args:
      losses: [B, O] float32, losses times weight, or increases of them.
      batch: label_mask, weight and domain are read.
      domains: G.

    Returns:
      [3, G, O] float32: sums of losses, of their squares, and of losses times weight.
    """
    mass = batch.label_mask * batch.weight[:, None]
    of_domain = jax.nn.one_hot(batch.domain, domains, axis=0)
    parts = jnp.stack([losses, losses * losses, losses * mass])
    return jnp.matmul(of_domain, parts, precision=jax.lax.Precision.HIGHEST)


class _RiseMeter:
    """Measures the increases of a run's losses, batch by batch; every function is compiled once."""

    def __init__(self, opened: OpenRun) -> None:
        run = opened.run
        self._mesh = run.mesh
        self._features, domains = len(list_features(run.schema)), max(1, len(run.schema.domain_values))
        by_batch = batch_sharding(run.mesh)
        self._move = jax.jit(build_move(run.schema), out_shardings=by_batch)
        self._predict = opened.predict_batch

        def add(total: jax.Array, logits: jax.Array, batch: Batch, before: jax.Array) -> jax.Array:
            # Subtract row by row: the difference of two float32 sums would lose small increases.
            return total + (compute_losses(logits, batch) - before)

        self._add = jax.jit(add, out_shardings=by_batch)
        self._sum = jax.jit(functools.partial(sum_by_domain, domains=domains), out_shardings=replicated(run.mesh))

    def measure(self, batch: Batch, others: Sequence[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """Measures one batch.

        Args:
          batch: [B] rows.
          others: for each shuffle, the rows from which shuffled values are taken.

        Returns:
          `sum_by_domain` of the losses, [3, G, O], and of each feature's increases summed over shuffles, [F, 3, G, O];
          both float32.
        """
        sent = put_batch(batch, self._mesh)
        moved = [put_batch(other, self._mesh) for other in others]
        zeros = jax.device_put(np.zeros(batch.labels.shape, np.float32), batch_sharding(self._mesh))
        before = self._add_rises(sent, [sent], _NO_FEATURE, zeros, zeros)
        rises: list[np.ndarray] = []
        waiting: jax.Array | None = None
        for feature in range(self._features):  # the next feature is computed while the previous result is read
            ahead = self._sum(self._add_rises(sent, moved, feature, zeros, before), sent)
            if waiting is not None:
                rises.append(np.asarray(waiting))
            waiting = ahead
        return np.asarray(self._sum(before, sent)), np.stack([*rises, np.asarray(waiting)])

    def _add_rises(
        self, batch: Batch, moved: Sequence[Batch], feature: int, total: jax.Array, before: jax.Array
    ) -> jax.Array:
        """Adds to `total` [B, O], for each shuffle, the losses with a feature shuffled minus those in `before`."""
        for other in moved:
            logits = self._predict(self._move(batch, other, np.int32(feature)))
            total = self._add(total, logits, batch, before)
        return total


def _sum_rises(opened: OpenRun, rows: Columns, settings: ShuffleSettings, say: Callable[[str], None]) -> _Sums:
    run, schema = opened.run, opened.run.schema
    count, devices = len(rows["weight"]), run.mesh.size
    size = min(run.config.training.evaluation_batch_size, -(-count // devices) * devices)
    orders = [open_stream(settings.seed, _SHUFFLE, i).permutation(count) for i in range(settings.shuffles)]
    domains, objectives = max(1, len(schema.domain_values)), len(schema.labels)
    features = len(list_features(schema))
    rise = np.zeros((features, 3, domains, objectives))
    loss, weight, squared_weight = np.zeros((3, domains, objectives))
    observed = np.zeros((domains, objectives), np.int64)
    meter = _RiseMeter(opened)
    batches = zip(*(_cut(rows, order, schema, size) for order in (np.arange(count), *orders)), strict=True)
    for place, (batch, *others) in enumerate(batches, start=1):
        mass = batch.label_mask.astype(np.float64) * batch.weight[:, None]
        np.add.at(weight, batch.domain, mass)
        np.add.at(squared_weight, batch.domain, mass**2)
        np.add.at(observed, batch.domain, mass > 0)
        batch_loss, batch_rise = meter.measure(batch, others)
        loss += batch_loss[0]
        rise += batch_rise
        say(f"{features} features, each shuffled {settings.shuffles} times: {min(place * size, count)} of {count} rows")
    per_shuffle = 1 / settings.shuffles
    return _Sums(
        rise=rise[:, 0] * per_shuffle,
        squared_rise=rise[:, 1] * per_shuffle**2,
        weighted_rise=rise[:, 2] * per_shuffle,
        loss=loss,
        weight=weight,
        squared_weight=squared_weight,
        rows=observed,
    )


def _cut(rows: Columns, order: np.ndarray, schema: Schema, size: int) -> Iterator[Batch]:
    """Yields batches of the rows in the given order; the last one is padded."""
    starts = range(0, len(order), size)
    chunks = ({name: array[order[start : start + size]] for name, array in rows.items()} for start in starts)
    return batch_rows(chunks, schema, size)


def _form_objectives(sums: _Sums, objectives: tuple[str, ...]) -> TaskImportance:
    return _form(objectives, _Sums(*(array.sum(axis=-2) for array in _list_sums(sums))))


def _form_portfolios(sums: _Sums, domains: tuple[str, ...], objectives: tuple[str, ...]) -> TaskImportance:
    present = sums.rows > 0  # an objective need not exist in every domain
    named = np.array([[f"{domain}/{objective}" for objective in objectives] for domain in domains])
    return _form(tuple(named[present].tolist()), _Sums(*(array[..., present] for array in _list_sums(sums))))


def _list_sums(sums: _Sums) -> list[np.ndarray]:
    return [getattr(sums, field.name) for field in dataclasses.fields(sums)]


def _form(tasks: tuple[str, ...], sums: _Sums) -> TaskImportance:
    """Computes means and standard errors from the sums: error^2 = sum of w^2 (d - mean)^2 / (sum of w)^2."""
    mean = sums.rise / sums.weight
    spread = sums.squared_rise - 2 * mean * sums.weighted_rise + mean**2 * sums.squared_weight
    error = np.sqrt(np.maximum(spread, 0)) / sums.weight
    return TaskImportance(tasks, mean, error, sums.loss / sums.weight, sums.rows)
