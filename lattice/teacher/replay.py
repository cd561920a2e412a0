"""Replay of a teacher in event time: it trains on one chunk of the log after the other and fills the store.

The training rows, in log order, are cut into chunks at whole steps. After chunk t, the teacher's latest state scores
either the rows of chunk t ("same": a student finds keys that recur in chunk t + 1), or the rows of chunk t + 1 and,
after the last chunk, those of the evaluation splits ("next": as if candidates were scored before they are shown). In
both cases an entry is dated one second after the last row that the teacher was trained on. So what a student reads
never depends on the label of its row, or of a row of the same second.
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
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.ranges import AtLeast, check_ranges
from wukong_jax.runs.checkpoints import Checkpoints
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.open_run import OpenRun
from wukong_jax.runs.rows import RunData, open_rows_of_run
from wukong_jax.runs.train_run import say_nothing, train_run
from wukong_jax.sharding.team import find_team
from wukong_jax.strict_mapping import list_changes
from wukong_jax.training.compiled_programs import keep_programs_in
from wukong_jax.training.run import build_run

Scored = Literal["same", "next"]
_EVALUATION = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class ReplaySettings:
    """Settings of the replay."""

    chunks: Annotated[int, AtLeast(2)]  # a student reads what an earlier chunk taught
    key_columns: tuple[str, ...]
    with_timestamp: bool = False  # whether a key identifies one impression
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
    """Trains a teacher chunk by chunk and fills a store; if started again, it resumes.

    Several processes call this together. All train and score; process 0 reads the rows to score, and writes the store.

    Args:
      config: config of the teacher; one epoch over rows that are not shuffled.
      workdir: run folder of the teacher; its `replay.json` holds the number of chunks done and the settings.
      store: folder of the store.
      settings: settings of the replay.
      say: prints a line per chunk.

    Returns:
      The store.

    Raises:
      UserError: rows are shuffled or not in time order, logits start at the rates of all rows, there is more than one
        epoch, the model has no backbone output, or the folder holds a replay with other settings or another store.
    """
    folder, workdir = Path(store), Path(workdir)
    if config.data.shuffle:
        raise UserError("config.data.shuffle = True: a replay needs the log's order; set it to False")
    if config.training.start_at_rate:
        raise UserError(
            "config.training.start_at_rate = True: a replay may not know the label rates of later rows; set it to False"
        )
    if config.training.epochs not in (None, 1):
        raise UserError(f"config.training.epochs = {config.training.epochs}: a replay is one pass; set it to 1")
    team = find_team()
    say = say if team.is_lead else say_nothing
    with keep_programs_in(workdir / "compiled"):
        workdir.mkdir(parents=True, exist_ok=True)
        team.mark("preparing the rows", busy=True)
        data = team.lead_first("the teacher's rows", lambda: open_teacher_rows(config, workdir, say))
        ends = find_chunk_ends(data.splits["train"].rows, config.training.batch_size, settings.chunks)
        times = read_timestamps(data.splits["train"])
        progress = _Progress(workdir / "replay.json", dataclasses.asdict(settings) | {"store": str(folder.absolute())})
        done, made = team.tell("chunks done", progress.read() if team.is_lead else None), None
        if team.is_lead and done and not (folder / "store.json").exists():
            raise UserError(
                f"store {folder}: is gone, and the replay in {workdir} has written {done} of {settings.chunks} chunks "
                "to it; give another --workdir to start again"
            )
        for chunk in range(done, settings.chunks):
            steps = math.ceil(ends[chunk + 1] / config.training.batch_size)
            training = dataclasses.replace(config.training, steps=steps, epochs=None)
            train_run(dataclasses.replace(config, training=training), str(workdir), say_nothing)
            team.ends_together = False  # as the end of a training set it: this is not the last
            team.mark("restoring the state", busy=True)
            opened = _open_latest(config, workdir, data)
            made = made or _open_store(folder, opened, settings)
            rows = _write_chunk(opened, made, settings, ends, chunk, int(times[ends[chunk + 1] - 1]) + 1)
            if team.is_lead:
                progress.write(chunk + 1)
            say(f"chunk {chunk + 1} of {settings.chunks}: trained to row {ends[chunk + 1]:,}, wrote {rows:,} rows")
        team.wait("the store")
        team.ends_together = True
        return TeacherStore(folder)


def open_teacher_rows(config: RunConfig, workdir: str | Path, say: Callable[[str], None]) -> RunData:
    """Opens the rows of a teacher.

    Raises:
      UserError: the teacher in the folder was trained on other rows.
    """
    fix = "give the same rows, or another --workdir and --store"
    return open_rows_of_run(config.data, RunFolder(workdir), say, fix)


def find_chunk_ends(rows: int, batch: int, chunks: int) -> list[int]:
    """Returns the row numbers at which chunks begin and end, at whole steps: `chunks` + 1 ascending numbers.

    Raises:
      UserError: fewer steps than chunks.
    """
    steps = math.ceil(rows / batch)
    if steps < chunks:
        raise UserError(f"chunks = {chunks}: the {rows} rows are {steps} steps of {batch}; take fewer chunks")
    return [min(rows, round(steps * chunk / chunks) * batch) for chunk in range(chunks + 1)]


def read_timestamps(blocks: BlockSource) -> np.ndarray:
    """Reads the timestamps of a split, [rows] int64 seconds.

    Raises:
      UserError: the rows are not in time order.
    """
    times = np.concatenate([blocks.read(index)["timestamp"] for index in range(blocks.num_blocks)])
    late = np.flatnonzero(np.diff(times) < 0)
    if len(late):
        raise UserError(
            f"training row {int(late[0]) + 1}: is earlier than the row before it; a replay needs rows in time order "
            "(split by time, or sort the raw file)"
        )
    return times


def measure_hits(
    data: RunData, store: str | Path, time_to_live_hours: float, ends: Sequence[int]
) -> list[dict[str, Any]]:
    """Measures how often a student finds an entry in the store, and the age of these entries.

    Args:
      data: the student's rows.
      store: folder of the store.
      time_to_live_hours: the student's setting.
      ends: see `find_chunk_ends`.

    Returns:
      One entry per chunk and evaluation split: "rows", its name; "number" of rows; "hit_rate"; "mean_age_seconds" of
      the hits, None without hits.
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
    """The file that holds the number of chunks done and the settings of the replay."""

    def __init__(self, path: Path, replay: dict[str, Any]) -> None:
        self._path, self._replay = path, replay

    def read(self) -> int:
        """Returns the number of chunks done; raises a UserError if the file is of another replay."""
        if not self._path.exists():
            return 0
        begun = json.loads(self._path.read_text(encoding="utf-8"))
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
    """Opens the teacher's latest state; a state chosen by validation rows would leak later rows into the replay."""
    run = build_run(config, data.schema, join=data.join)
    checkpoints = Checkpoints(RunFolder(str(workdir)).checkpoints, run.exchange, read_only=True)
    try:
        state, _ = checkpoints.restore(run.abstract_state(), "latest", run.state_sharding)
    finally:
        checkpoints.close()
    return OpenRun(run, data, state, workdir)


def _open_store(folder: Path, opened: OpenRun, settings: ReplaySettings) -> TeacherStore:
    description = _describe(opened, settings)
    return find_team().lead_first("opening the store", lambda: create_store(folder, description))


def _describe(opened: OpenRun, settings: ReplaySettings) -> StoreDescription:
    """Returns the description of the store; its width is that of the teacher's backbone output."""
    run = opened.run
    find_key_slots(run.schema, settings.key_columns)
    first = next(opened.read_split("train"))
    _, embeddings, _ = next(run_teacher(opened, iter([first])))
    objectives = tuple(label.name for label in run.schema.labels)
    return StoreDescription(embeddings.shape[1], objectives, settings.key_columns, settings.with_timestamp)


def _write_chunk(
    opened: OpenRun, store: TeacherStore, settings: ReplaySettings, ends: Sequence[int], chunk: int, now: int
) -> int:
    """Scores the rows due after a chunk and writes them as one segment; returns their number, 0 in other processes."""
    run, team = opened.run, find_team()
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
    for batch, embeddings, logits in run_teacher(opened, batches if team.is_lead else iter(())):
        if team.is_lead:
            parts.append((build_keys(batch._asdict(), slots, settings.with_timestamp), embeddings, logits))
    team.mark("writing the store", busy=True)
    if not parts:
        return 0
    keys, embeddings, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    store.write(keys, np.full(len(keys), now, np.int64), embeddings, logits)
    return len(keys)


def _read_rows(opened: OpenRun, split: str, first: int, last: int | None) -> Iterator[Batch]:
    """Yields the batches that contain a range of a split's rows; rows outside the range get weight 0."""
    size = opened.run.evaluation_batch_size
    for index, batch in enumerate(opened.read_split(split)):
        place = index * size + np.arange(size)
        if place[-1] < first:
            continue
        if last is not None and place[0] >= last:
            return
        inside = (place >= first) & (place < (opened.data.splits[split].rows if last is None else last))
        yield batch._replace(weight=batch.weight * inside)
