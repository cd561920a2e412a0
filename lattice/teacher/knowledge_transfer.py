"""Knowledge transfer via asynchronous precomputation (KTAP): a student reads what a teacher wrote to a store before.

    teacher, after chunk t:  store[key of each row of chunk t, or of t + 1] = (backbone embedding, logits, current time)
    student, at row i:       store[key of i], if not older than the time to live, as extras of the batch

As reported for arXiv 2512.09200, section 3.4: embeddings are projected to input tokens; logits are soft labels of a
distillation term added to the log loss; a miss gives a zero vector and no distillation term; embeddings are clipped and
labels smoothed. Choices of ours: the key (id columns, optionally with the second of the impression), that a row reads
nothing written after it, and the amounts of clipping and smoothing. The distillation term is in `lattice.losses`, the
tokens are in `lattice.network.network`.
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np

from lattice.teacher.store import TeacherStore
from wukong_jax.data.blocks.batch import Batch, Columns
from wukong_jax.data.raw.stable_hash import hash_uniform, mix64
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, Between
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.spread_batches import spread_batches
from wukong_jax.schema import Schema
from wukong_jax.sharding.mesh import batch_sharding, replicated
from wukong_jax.sharding.team import find_team
from wukong_jax.strict_mapping import build_dataclass
from wukong_jax.training.run import Run
from wukong_jax.training.step import build_forward

OPTIONS = "config.data.join.options"
# The extras of a batch, each [B, width] float32.
EMBEDDING, LOGITS, HIT = "teacher_embedding", "teacher_logits", "teacher_hit"


@dataclasses.dataclass(frozen=True)
class TransferOptions:
    """`config.data.join.options` of `lattice.teacher.knowledge_transfer:build_join`."""

    store: str  # folder of the store
    # entries older than this are ignored; "several hours" are reported
    time_to_live_hours: Annotated[float, Above(0)] = 6.0
    clip: Annotated[float, Above(0)] = 3.0  # embeddings are clipped to [-clip, clip]
    # share of hits to use, by a hash of the key; below 1 to measure the cost of misses
    kept_share: Annotated[float, Between(0, 1)] = 1.0
    seed: int = 0  # of that hash


class TeacherJoin:
    """Joins stored teacher outputs to rows; see `wukong_jax.data.blocks.row_join`."""

    def __init__(self, options: TransferOptions, schema: Schema) -> None:
        """Opens the store.

        Raises:
          UserError: there is no store, the schema lacks its key columns, or its objectives differ.
        """
        self._options, self.store = options, TeacherStore(options.store)
        description = self.store.description
        objectives = tuple(label.name for label in schema.labels)
        if description.objectives != objectives:
            raise UserError(
                f"{OPTIONS}.store = {options.store!r}: its teacher has objectives {', '.join(description.objectives)}, "
                f"the rows {', '.join(objectives)}; train the student on the teacher's objectives"
            )
        self._slots = find_key_slots(schema, description.key_columns)

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each added column."""
        description = self.store.description
        return {EMBEDDING: description.width, LOGITS: len(description.objectives), HIT: 1}

    def __call__(self, columns: Columns) -> Mapping[str, np.ndarray]:
        """Returns the stored outputs available at the time of each row, each [rows, width] float32."""
        known, _ = self.look_up(columns)
        return known

    def look_up(self, columns: Columns) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns the added columns and the ages of the entries found, [rows] int64 seconds, 0 for misses."""
        options = self._options
        keys = build_keys(columns, self._slots, self.store.description.with_timestamp)
        found = self.store.read(keys, columns["timestamp"], options.time_to_live_hours * 3600)
        kept = found.hit & (hash_uniform(keys, options.seed) < options.kept_share)
        added = {
            EMBEDDING: np.clip(found.embeddings, -options.clip, options.clip) * kept[:, None],
            LOGITS: found.logits * kept[:, None],
            HIT: kept[:, None].astype(np.float32),
        }
        return added, np.where(kept, found.age, 0)


def build_join(options: Mapping[str, Any], schema: Schema) -> TeacherJoin:
    """Builds the join from a config.

    Args:
      options: keys of `TransferOptions`.
      schema: schema of the rows.

    Returns:
      A `TeacherJoin`.

    Raises:
      UserError: an unknown option, a value out of range, or a store that does not match the schema.
    """
    return TeacherJoin(build_dataclass(TransferOptions, options, OPTIONS), schema)


def find_key_slots(schema: Schema, columns: Sequence[str]) -> list[int]:
    """Returns the id slots of the named columns, in the given order.

    Raises:
      UserError: no column is named, or the schema has no such id column.
    """
    slots = schema.column_slots
    for name in columns:
        if name not in slots:
            raise UserError(f"key column {name!r}: no id column of schema {schema.name!r}; it has {', '.join(slots)}")
    if not columns:
        raise UserError("key columns = []: name the id columns that form a key, such as user,item")
    return [slot for name in columns for slot in slots[name]]


def build_keys(columns: Columns, slots: Sequence[int], with_timestamp: bool) -> np.ndarray:
    """Computes the 64-bit keys of rows: a chained hash of their ids and, optionally, their timestamp.

    Args:
      columns: arrays of the rows.
      slots: id slots that form the key.
      with_timestamp: whether the timestamp is part of the key, so that a key identifies one impression.

    Returns:
      [rows] uint64. Among n distinct keys, the probability of any collision is about n^2 / 2^65.
    """
    state = np.full(len(columns["weight"]), 0x5EED, np.uint64)
    parts = [columns["ids"][:, slot] for slot in slots] + ([columns["timestamp"]] if with_timestamp else [])
    for part in parts:
        state = mix64(state ^ mix64(part.astype(np.int64).view(np.uint64)))
    return state


def run_teacher(opened: OpenRun, batches: Iterator[Batch]) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
    """Computes a teacher's embeddings and logits of rows.

    Where several processes share the mesh, all call this together; process 0 sends its rows to all.

    Args:
      opened: run of the teacher, whose model has an aux output "backbone" [B, d].
      batches: batches of rows; those of other processes than process 0 are not read.

    Yields:
      (batch, embeddings [rows, d] float32, logits [rows, O] float32), without padding rows; the batch's columns, but
      for its weights, in process 0 only.

    Raises:
      UserError: the model has no "backbone" output.
    """
    run, state = opened.run, opened.state
    forward = build_forward(run.network, run.exchange)

    @functools.partial(jax.jit, out_shardings=replicated(run.mesh))
    def score(params: Any, statistics: Any, tables: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        outputs = forward(params, statistics, tables, batch)
        if "backbone" not in outputs.aux:
            raise UserError(
                f"config.model.factory = {run.config.model.factory!r}: has no backbone embedding to write; use "
                "'lattice.network:build' as the teacher"
            )
        return outputs.aux["backbone"], outputs.logits

    for number, (batch, placed) in enumerate(_place_batches(run, batches), 1):
        find_team().mark(f"scoring batch {number}", busy=number == 1)  # the first is compiled
        scored = score(state.params, state.statistics, state.tables, placed)
        real = batch.weight > 0
        yield (
            jax.tree.map(lambda array, real=real: array[real], batch._replace(extras={})),
            *(np.asarray(array.addressable_data(0))[real] for array in scored),
        )


def _place_batches(run: Run, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Batch]]:
    """Yields batches, each also on the devices of all processes; batches without a row that counts are left out."""
    counting = (batch for batch in batches if batch.weight.any())
    if batch_sharding(run.mesh).is_fully_addressable:
        yield from ((batch, put_batch(batch, run.mesh)) for batch in counting)
        return
    sent: deque[Batch] = deque()

    def note_batches() -> Iterator[Batch]:
        for batch in counting:
            sent.append(batch)
            yield batch

    for told, placed in spread_batches(run, note_batches() if find_team().is_lead else iter(())):
        yield (sent.popleft() if sent else told), placed
