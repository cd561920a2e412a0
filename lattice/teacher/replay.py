"""The teacher's side of a replay in event time: it trains on a chunk of the log, then writes what it makes of rows.

The training rows, in the order of their log, are cut into chunks at whole steps. After chunk t the teacher's latest
state scores either the rows of chunk t itself ("same": a student of chunk t + 1 finds keys that recur), or those of
chunk t + 1 and, after the last chunk, of the evaluation splits ("next": candidates that were known before they were
shown). Either way an entry is dated in the second after the last row that the teacher had been trained on, so nothing
that a student reads knows its own label, or that of a row of the same second.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from lattice.teacher.knowledge_transfer import TeacherJoin, TransferOptions, build_keys, find_key_slots, run_teacher
from lattice.teacher.store import StoreDescription, TeacherStore, create_store
from wukong_jax.config import RunConfig
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast, check_ranges
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.evaluation import read_in_order
from wukong_jax.runs.folder import RunFolder, write_text_whole
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.rows import RunData, open_run_data
from wukong_jax.runs.train_loop import train
from wukong_jax.strict_mapping import list_changes
from wukong_jax.training.compiled_programs import keep_programs_in
from wukong_jax.training.run import build_run

Scored = Literal["same", "next"]
_EVALUATION = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class ReplaySettings:
    """How the teacher runs ahead."""

    chunks: Annotated[int, AtLeast(2)]  # a student reads what an earlier chunk taught
    key_columns: tuple[str, ...]
    with_timestamp: bool = False  # a key is one impression
    scored: Scored = "next"

    def __post_init__(self) -> None:
        """Refuses what leaves nothing to read."""
        check_ranges(self)
        if self.scored not in ("same", "next"):
            raise UserError(f"scored = {self.scored!r}: 'same' or 'next'")
        if self.with_timestamp and self.scored == "same":
            raise UserError("with_timestamp: an impression does not recur, so scored = 'same' would never be read")


def replay_teacher(
    config: RunConfig, workdir: str | Path, store: str | Path, settings: ReplaySettings, say: Callable[[str], None]
) -> TeacherStore:
    """Trains a teacher chunk by chunk and fills a store; started again, it goes on where it was.

    Args:
      config: the teacher's; one pass over rows that are not shuffled.
      workdir: its run folder; `replay.json` there counts the chunks done, and says how they were.
      store: folder of the store.
      settings: how.
      say: prints a line a chunk.

    Returns:
      The store.

    Raises:
      UserError: rows that are shuffled or not in time order, several passes, a model without a backbone, or a folder
        where a replay with other settings, or into another store, has begun.
    """
    folder, workdir = Path(store), Path(workdir)
    if config.data.shuffle:
        raise UserError("config.data.shuffle = True: a replay needs the log's order; set it to False")
    if config.training.epochs not in (None, 1):
        raise UserError(f"config.training.epochs = {config.training.epochs}: a replay is one pass; set it to 1")
    with keep_programs_in(workdir / "compiled"):
        workdir.mkdir(parents=True, exist_ok=True)
        data = open_run_data(config.data, RunFolder(str(workdir)).data, say)
        ends = find_chunk_ends(data.splits["train"].rows, config.training.batch_size, settings.chunks)
        times = read_timestamps(data.splits["train"])
        progress = _Progress(workdir / "replay.json", dataclasses.asdict(settings) | {"store": str(folder.absolute())})
        done, made = progress.read(), None
        if done and not (folder / "store.json").exists():
            raise UserError(
                f"store {folder}: is gone, and the replay in {workdir} has written {done} of {settings.chunks} chunks "
                "to it; give another --workdir to write all again"
            )
        for chunk in range(done, settings.chunks):
            steps = math.ceil(ends[chunk + 1] / config.training.batch_size)
            training = dataclasses.replace(config.training, steps=steps, epochs=None)
            train(dataclasses.replace(config, training=training), str(workdir), lambda text: None, report=False)
            opened = _open_latest(config, workdir, data)
            made = made or create_store(folder, _describe(opened, settings))
            rows = _write_chunk(opened, made, settings, ends, chunk, int(times[ends[chunk + 1] - 1]) + 1)
            progress.write(chunk + 1)
            say(f"chunk {chunk + 1} of {settings.chunks}: trained to row {ends[chunk + 1]:,}, wrote {rows:,} rows")
        return made or TeacherStore(folder)


def find_chunk_ends(rows: int, batch: int, chunks: int) -> list[int]:
    """Rows before each chunk and after the last, at whole steps: `chunks` + 1 ascending numbers.

    Raises:
      UserError: fewer steps than chunks.
    """
    steps = math.ceil(rows / batch)
    if steps < chunks:
        raise UserError(f"chunks = {chunks}: the {rows} rows are {steps} steps of {batch}; take fewer chunks")
    return [min(rows, round(steps * chunk / chunks) * batch) for chunk in range(chunks + 1)]


def read_timestamps(blocks: BlockSource) -> np.ndarray:
    """The seconds of a split's rows: [rows] int64.

    Raises:
      UserError: they do not ascend.
    """
    times = np.concatenate([blocks.read(index)["timestamp"] for index in range(blocks.num_blocks)])
    late = np.flatnonzero(np.diff(times) < 0)
    if len(late):
        raise UserError(
            f"training row {int(late[0]) + 1}: comes before the row in front of it; a replay needs rows in time order "
            "(split by time, or sort the raw file)"
        )
    return times


def measure_hits(
    data: RunData, store: str | Path, time_to_live_hours: float, ends: Sequence[int]
) -> list[dict[str, Any]]:
    """How often a student finds what it looks for, and how old that is.

    Args:
      data: rows.
      store: folder of the store.
      time_to_live_hours: as the student has it.
      ends: see `find_chunk_ends`.

    Returns:
      A row a chunk and evaluation split: "rows", their number; "hit_rate"; "mean_age_seconds", of hits.
    """
    join = TeacherJoin(TransferOptions(str(store), time_to_live_hours), data.schema)
    found = []
    for split in (name for name in ("train", *_EVALUATION) if name in data.splits):
        blocks = data.splits[split]
        parts = [join.look_up(blocks.read(index)) for index in range(blocks.num_blocks)]
        hits = np.concatenate([known["teacher_hit"][:, 0] for known, _ in parts])
        ages = np.concatenate([age for _, age in parts])
        cuts = list(ends) if split == "train" else [0, blocks.rows]
        for place, (first, last) in enumerate(itertools.pairwise(cuts)):
            mine = hits[first:last] > 0
            found.append(
                {
                    "rows": f"chunk {place + 1}" if split == "train" else split,
                    "number": last - first,
                    "hit_rate": float(mine.mean()),
                    "mean_age_seconds": float(ages[first:last][mine].mean()) if mine.any() else None,
                }
            )
    return found


class _Progress:
    """How far a replay has come, in a file that also says what replay it is."""

    def __init__(self, path: Path, replay: dict[str, Any]) -> None:
        self._path, self._replay = path, replay

    def read(self) -> int:
        """Chunks done; refuses another replay's."""
        if not self._path.exists():
            return 0
        begun = json.loads(self._path.read_text())
        chunks_done = int(begun.pop("chunks_done"))
        for key, (old, new) in list_changes(begun, self._replay).items():
            raise UserError(
                f"{key} = {new!r}: the replay in {self._path.parent} was begun with {old!r}; give that, or another "
                "--workdir and --store"
            )
        return chunks_done

    def write(self, chunks_done: int) -> None:
        write_text_whole(self._path, json.dumps({"chunks_done": chunks_done} | self._replay, indent=1) + "\n")


def _open_latest(config: RunConfig, workdir: Path, data: RunData) -> OpenRun:
    """The teacher as it stands: a state chosen on validation rows would know what comes after the log."""
    run = build_run(config, data.schema)
    checkpoints = Checkpoints(RunFolder(str(workdir)).checkpoints, run.exchange, read_only=True)
    try:
        state, _ = checkpoints.restore(run.abstract_state(), "latest", run.state_sharding)
    finally:
        checkpoints.close()
    return OpenRun(run, data, state)


def _describe(opened: OpenRun, settings: ReplaySettings) -> StoreDescription:
    """What the store is to hold; the width is that of a row's backbone."""
    run = opened.run
    find_key_slots(run.schema, settings.key_columns)
    first = next(read_in_order(opened.data.source("train"), run.schema, run.config.training.evaluation_batch_size))
    _, embeddings, _ = next(run_teacher(opened, iter([first])))
    objectives = tuple(label.name for label in run.schema.labels)
    return StoreDescription(embeddings.shape[1], objectives, settings.key_columns, settings.with_timestamp)


def _write_chunk(
    opened: OpenRun, store: TeacherStore, settings: ReplaySettings, ends: Sequence[int], chunk: int, now: int
) -> int:
    """Scores and writes the rows that are due after a chunk, a segment; returns how many."""
    run = opened.run
    last = chunk + 1 == settings.chunks
    if settings.scored == "same":
        batches = _read_rows(opened, "train", ends[chunk], ends[chunk + 1])
    elif not last:
        batches = _read_rows(opened, "train", ends[chunk + 1], ends[chunk + 2])
    else:
        splits = [split for split in _EVALUATION if split in opened.data.splits]
        batches = (batch for split in splits for batch in _read_rows(opened, split, 0, None))
    slots = find_key_slots(run.schema, settings.key_columns)
    parts = []
    for batch, embeddings, logits in run_teacher(opened, batches):
        parts.append((build_keys(batch._asdict(), slots, settings.with_timestamp), embeddings, logits))
    if not parts:
        return 0
    keys, embeddings, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    store.write(keys, np.full(len(keys), now, np.int64), embeddings, logits)
    return len(keys)


def _read_rows(opened: OpenRun, split: str, first: int, last: int | None) -> Iterator[Batch]:
    """Batches of a range of a split's rows; those outside it have weight 0."""
    run = opened.run
    size = run.config.training.evaluation_batch_size
    for index, batch in enumerate(read_in_order(opened.data.source(split), run.schema, size)):
        place = index * size + np.arange(size)
        if place[-1] < first:
            continue
        if last is not None and place[0] >= last:
            return
        inside = (place >= first) & (place < (opened.data.splits[split].rows if last is None else last))
        yield batch._replace(weight=batch.weight * inside)
