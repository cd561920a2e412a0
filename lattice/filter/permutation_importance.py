"""How much each feature matters for each task: the rise of the task's log loss when the feature's values are shuffled.

Lattice Filter (paper 3.2.2) ranks features by permutation importance; how it is computed is our own choice:

* A feature is one column of the schema: a number, an id, or a bag or sequence, whose slots move together.
* Some rows of a split are drawn. In each shuffle every row gets the feature's value of another row (of a random
  permutation, the same for all features of that shuffle, so that they are compared on equal terms); nothing else moves.
* importance = mean of (log loss with the feature shuffled - log loss as it is), in nats, over shuffles and over those
  rows in which the objective was observed, weighted as the rows are. A feature that the model does not read has
  exactly 0. The standard error is that of a mean over rows, each row's rise being its mean over shuffles.
* The tasks are the objectives, over all domains; and, where the data has domains, the portfolios: an objective over the
  rows of one domain. Values are shuffled over the rows of all domains.

The model is restored once and compiled once. The cost is rows times features times shuffles predictions.
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
from wukong_jax.runs.finish import build_predict
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.schema import Schema
from wukong_jax.sharding.mesh import batch_sharding, replicated

_SHUFFLE = 211  # random stream of a seed
_NO_FEATURE = -1


@dataclasses.dataclass(frozen=True)
class ShuffleSettings:
    """Over which rows, and how often, values are shuffled."""

    split: str = "validation"
    rows: Annotated[int, AtLeast(2)] = 65_536  # drawn from the split; all of it where it has fewer
    shuffles: Annotated[int, AtLeast(1)] = 3
    seed: Annotated[int, AtLeast(0)] = 0  # of the rows and of the shuffles

    def __post_init__(self) -> None:
        """Refuses values out of range."""
        check_ranges(self)


@dataclasses.dataclass(frozen=True)
class TaskImportance:
    """Importances for some tasks: O objectives, or O portfolios."""

    tasks: tuple[str, ...]  # O names
    importance: np.ndarray  # [F, O] float64, nats
    standard_error: np.ndarray  # [F, O] float64, of the mean over rows
    log_loss: np.ndarray  # [O] float64, nats, with nothing shuffled
    rows: np.ndarray  # [O] int64, that the task was observed in


@dataclasses.dataclass(frozen=True)
class RunImportance:
    """What shuffling says of a run's features."""

    features: tuple[str, ...]  # F: dense columns, then id columns in the order of their slots
    objectives: TaskImportance
    portfolios: TaskImportance | None  # None: the data has one domain; those without rows are left out
    settings: ShuffleSettings
    rows: int  # that were read
    step: int  # of the state


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Over the rows, per domain and objective: w is a row's weight, d its rise of a feature, mean over shuffles."""

    rise: np.ndarray  # [F, ...] float64, sum of w d
    squared_rise: np.ndarray  # [F, ...] float64, sum of (w d)^2
    weighted_rise: np.ndarray  # [F, ...] float64, sum of w^2 d
    loss: np.ndarray  # [...] float64, sum of w times the loss
    weight: np.ndarray  # [...] float64, sum of w
    squared_weight: np.ndarray  # [...] float64, sum of w^2
    rows: np.ndarray  # [...] int64


def list_features(schema: Schema) -> tuple[str, ...]:
    """The F features of a schema: dense columns, then id columns in the order of their slots."""
    return tuple([column.name for column in schema.dense] + [column.name for column in schema.id_columns])


def check_features(measured: RunImportance, schema: Schema) -> None:
    """Refuses importances of another schema's features.

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
    """Shuffles each feature of a run and takes the rises of its losses.

    Args:
      opened: the run, at the state it is judged by.
      settings: which rows, how many shuffles.
      say: gets a line of progress after each batch.

    Returns:
      The importances.

    Raises:
      UserError: no such split, or an objective that no row of it has.
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
    """Rows of a split drawn without repetition, in a random order; rows of weight 0 are passed over.

    A split of many blocks gives the rows of as many random blocks as are needed.

    Args:
      source: the split.
      schema: of its rows.
      settings: how many, and the seed.

    Returns:
      Name to array of [rows, ...] as in a block, with what is joined to the rows.

    Raises:
      UserError: fewer than two rows have weight.
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
    """Builds the pure function that gives a batch one feature's values of other rows.

    Returns:
      (batch, others, feature) -> batch, where `feature` [] int32 is a place in `list_features`, -1 for none; all of the
      feature's slots come from `others` [B] rows, and nothing else does.
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
    """Log losses times weight, 0 where not observed: [B, O] float32."""
    mass = batch.label_mask * batch.weight[:, None]
    return jnp.where(mass > 0, mass * compute_row_log_loss(logits, batch.labels), 0.0)


def sum_by_domain(losses: jax.Array, batch: Batch, domains: int) -> jax.Array:
    """Sums over the rows of each domain that a weighted mean and its standard error need.

    Args:
      losses: [B, O] float32, times weight; or rises of them.
      batch: its label_mask, weight and domain are read.
      domains: G.

    Returns:
      [3, G, O] float32: sums of losses, of their squares, and of losses times weight.
    """
    mass = batch.label_mask * batch.weight[:, None]
    of_domain = jax.nn.one_hot(batch.domain, domains, axis=0)
    parts = jnp.stack([losses, losses * losses, losses * mass])
    return jnp.matmul(of_domain, parts, precision=jax.lax.Precision.HIGHEST)


class _RiseMeter:
    """A run's model between the functions above, each compiled once."""

    def __init__(self, opened: OpenRun) -> None:
        run = opened.run
        self._mesh = run.mesh
        self._features, domains = len(list_features(run.schema)), max(1, len(run.schema.domain_values))
        by_batch = batch_sharding(run.mesh)
        self._move = jax.jit(build_move(run.schema), out_shardings=by_batch)
        self._predict = build_predict(run, opened.state)

        def add(total: jax.Array, logits: jax.Array, batch: Batch, before: jax.Array) -> jax.Array:
            # Row by row: the difference of two float32 sums would lose the small rises.
            return total + (compute_losses(logits, batch) - before)

        self._add = jax.jit(add, out_shardings=by_batch)
        self._sum = jax.jit(functools.partial(sum_by_domain, domains=domains), out_shardings=replicated(run.mesh))

    def measure(self, batch: Batch, others: Sequence[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """One batch.

        Args:
          batch: [B] rows.
          others: for each shuffle, the rows that features come from.

        Returns:
          `sum_by_domain` of the losses [3, G, O], and of the rises of each feature, summed over shuffles,
          [F, 3, G, O]; float32.
        """
        sent = put_batch(batch, self._mesh)
        moved = [put_batch(other, self._mesh) for other in others]
        zeros = jax.device_put(np.zeros(batch.labels.shape, np.float32), batch_sharding(self._mesh))
        before = self._add_rises(sent, [sent], _NO_FEATURE, zeros, zeros)
        rises: list[np.ndarray] = []
        waiting: jax.Array | None = None
        for feature in range(self._features):  # one is computed ahead of the one that is read
            ahead = self._sum(self._add_rises(sent, moved, feature, zeros, before), sent)
            if waiting is not None:
                rises.append(np.asarray(waiting))
            waiting = ahead
        return np.asarray(self._sum(before, sent)), np.stack([*rises, np.asarray(waiting)])

    def _add_rises(
        self, batch: Batch, moved: Sequence[Batch], feature: int, total: jax.Array, before: jax.Array
    ) -> jax.Array:
        """The losses with a feature moved less those before, [B, O], added to the total for each shuffle."""
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
    """Batches of the rows in an order, the last padded."""
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
    """Means and standard errors, from sums [O] or [F, O]: error^2 = sum of w^2 (d - mean)^2 / (sum of w)^2."""
    mean = sums.rise / sums.weight
    spread = sums.squared_rise - 2 * mean * sums.weighted_rise + mean**2 * sums.squared_weight
    error = np.sqrt(np.maximum(spread, 0)) / sums.weight
    return TaskImportance(tasks, mean, error, sums.loss / sums.weight, sums.rows)
