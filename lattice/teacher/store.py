"""What a teacher knows of keys, on disk: embeddings and logits by 64-bit key, written at a time, read up to an age.

    FOLDER/store.json                 width, objectives, key columns
    FOLDER/next_segment               number of the segment that is written next
    FOLDER/segment-00000007/*.npy     keys, written_at, embeddings, logits: one write each, sorted by (key, time)

A segment is written aside and renamed, so a writer that crashes leaves whole segments and rubbish that the next one
removes; readers see a segment whole or not at all, and find new ones when they ask (`refresh`). Segments are mapped,
not read: a look-up touches the rows it finds.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.files.file_lock import hold_lock
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.strict_mapping import build_dataclass, to_mapping

_ARRAYS = ("keys", "written_at", "embeddings", "logits")
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class StoreDescription:
    """What `store.json` holds."""

    width: int  # numbers of an embedding
    objectives: tuple[str, ...]  # of the logits
    key_columns: tuple[str, ...]  # id columns that make a key, in order
    with_timestamp: bool = False  # whether the row's second is part of the key: an impression, not a pair
    version: int = _VERSION


class Knowledge(NamedTuple):
    """What the store knew of B keys at their times."""

    hit: np.ndarray  # [B] bool
    age: np.ndarray  # [B] int64, seconds since it was written; 0 where missed
    embeddings: np.ndarray  # [B, d] float32, zeros where missed
    logits: np.ndarray  # [B, O] float32, zeros where missed


class TeacherStore:
    """A store opened for reading or writing; one writer at a time, any number of readers."""

    def __init__(self, folder: str | Path) -> None:
        """Opens a store that exists.

        Raises:
          UserError: the folder holds none.
        """
        self.folder = Path(folder)
        try:
            mapping = json.loads((self.folder / "store.json").read_text())
        except OSError as error:
            raise UserError(f"store {self.folder}: {error.strerror}; write one with scripts/run_teacher.py") from None
        except ValueError as error:
            raise UserError(f"store {self.folder}: store.json is not JSON ({error}); write the store anew") from None
        self.description = build_dataclass(StoreDescription, mapping, f"{self.folder}/store.json")
        if self.description.version != _VERSION:
            raise UserError(
                f"store {self.folder}: version {self.description.version}, this program reads {_VERSION}; write it anew"
            )
        self._segments: dict[str, tuple[np.ndarray, ...]] = {}
        self._index = _Index.build([])
        self.refresh()

    def refresh(self) -> None:
        """Looks for segments written since, and for segments removed."""
        names = sorted(path.name for path in self.folder.glob("segment-*") if path.is_dir())
        for name in names:
            if name not in self._segments:
                try:
                    self._segments[name] = _open_segment(self.folder / name)
                except UserError:
                    if (self.folder / name).exists():  # else it was forgotten since it was listed
                        raise
        self._segments = {name: self._segments[name] for name in names if name in self._segments}
        self._index = _Index.build(list(self._segments.values()))

    def read(self, keys: np.ndarray, now: np.ndarray, time_to_live: float) -> Knowledge:
        """Looks keys up: the newest that was written at or before a key's time, if it is not too old.

        Args:
          keys: [B] uint64.
          now: [B] int64, seconds.
          time_to_live: seconds after which what was written counts no more.

        Returns:
          What was found.
        """
        description, index = self.description, self._index
        place = index.find(keys, now)
        hit = place >= 0
        age = np.where(hit, now - index.written_at[np.where(hit, place, 0)] if len(index.written_at) else 0, 0)
        hit &= age <= time_to_live
        embeddings = np.zeros((len(keys), description.width), np.float32)
        logits = np.zeros((len(keys), len(description.objectives)), np.float32)
        segments = list(self._segments.values())
        for number in np.unique(index.segment[place[hit]]) if hit.any() else ():
            rows = np.flatnonzero(hit & (index.segment[np.maximum(place, 0)] == number))
            inside = index.row[place[rows]]
            embeddings[rows], logits[rows] = segments[number][2][inside], segments[number][3][inside]
        return Knowledge(hit, np.where(hit, age, 0), embeddings, logits)

    def write(self, keys: np.ndarray, written_at: np.ndarray, embeddings: np.ndarray, logits: np.ndarray) -> None:
        """Adds a segment; of equal (key, time) pairs the last stays.

        Args:
          keys: [n] uint64.
          written_at: [n] int64, seconds.
          embeddings: [n, d], stored as float16.
          logits: [n, O], stored as float32.

        Raises:
          UserError: another process is writing, the arrays do not fit the store, hold what is not a number or what
            float16 cannot hold, or the disk is full.
        """
        arrays = self._check(keys, written_at, embeddings, logits)
        with hold_lock(self.folder / ".writer", f"store {self.folder}: another process is writing to it; wait for it"):
            for rubbish in self.folder.glob(".unfinished-*"):  # of a writer that crashed
                shutil.rmtree(rubbish, ignore_errors=True)
            taken = [int(path.name.removeprefix("segment-")) for path in self.folder.glob("segment-*")]
            counter = self.folder / "next_segment"  # never falls: a forgotten segment's name would mislead its readers
            number = max([int(counter.read_text()) if counter.exists() else 0, *(one + 1 for one in taken)])
            name = f"segment-{number:08d}"
            aside = self.folder / f".unfinished-{name}"
            try:
                write_text_whole(counter, f"{number + 1}\n")
                aside.mkdir()
                for array_name, array in zip(_ARRAYS, arrays, strict=True):
                    _save(aside / f"{array_name}.npy", array)
                aside.rename(self.folder / name)
            except OSError as error:
                raise UserError(f"store {self.folder}: cannot write ({error.strerror}); free space") from None
        self.refresh()

    def forget(self, before: int) -> int:
        """Removes the segments in which everything was written before a time; returns how many."""
        with hold_lock(self.folder / ".writer", f"store {self.folder}: another process is writing to it; wait for it"):
            self.refresh()  # another process may have written or forgotten some
            old = [name for name, arrays in self._segments.items() if arrays[1].max() < before]
            for name in old:
                (self.folder / name).rename(self.folder / f".unfinished-{name}")  # gone at once, for readers
                shutil.rmtree(self.folder / f".unfinished-{name}", ignore_errors=True)
        self.refresh()
        return len(old)

    def _check(
        self, keys: np.ndarray, written_at: np.ndarray, embeddings: np.ndarray, logits: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        rows, description = len(keys), self.description
        expected = {"embeddings": (rows, description.width), "logits": (rows, len(description.objectives))}
        for name, array in (("embeddings", embeddings), ("logits", logits)):
            if array.shape != expected[name]:
                raise UserError(f"store {self.folder}: {name} of shape {array.shape}, it holds {expected[name]}")
            if not np.isfinite(array).all():
                raise UserError(f"store {self.folder}: {name} hold what is not a number; the teacher has diverged")
        if not rows or len(written_at) != rows:
            raise UserError(f"store {self.folder}: {len(written_at)} times for {rows} keys; one each, and at least one")
        largest = np.abs(embeddings).max()
        if largest > np.finfo(np.float16).max:
            raise UserError(f"store {self.folder}: an embedding holds {largest:g}, float16 ends at 65504; clip them")
        order = np.lexsort((np.arange(rows), written_at, keys))
        last = np.ones(rows, bool)
        last[:-1] = (keys[order][1:] != keys[order][:-1]) | (written_at[order][1:] != written_at[order][:-1])
        order = order[last]
        types = (np.uint64, np.int64, np.float16, np.float32)
        arrays = (keys, written_at, embeddings, logits)
        return tuple(array[order].astype(kind) for array, kind in zip(arrays, types, strict=True))


def create_store(folder: str | Path, description: StoreDescription) -> TeacherStore:
    """Makes an empty store, or opens the one that is there.

    Raises:
      UserError: the folder holds a store of another description, or cannot be written.
    """
    folder = Path(folder)
    if (folder / "store.json").exists():
        store = TeacherStore(folder)
        if store.description != description:
            raise UserError(
                f"store {folder}: holds {store.description}, asked for {description}; choose another folder"
            )
        return store
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text_whole(folder / "store.json", json.dumps(to_mapping(description), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"store {folder}: {error.strerror}; choose a folder that can be written") from None
    return TeacherStore(folder)


class _Index(NamedTuple):
    """All segments' keys in one order: by key, then time, then segment."""

    keys: np.ndarray  # [n] uint64
    written_at: np.ndarray  # [n] int64
    segment: np.ndarray  # [n] int32
    row: np.ndarray  # [n] int64, inside the segment

    @staticmethod
    def build(segments: list[tuple[np.ndarray, ...]]) -> "_Index":
        counts = [len(arrays[0]) for arrays in segments]
        keys = np.concatenate([np.zeros(0, np.uint64), *(arrays[0] for arrays in segments)])
        times = np.concatenate([np.zeros(0, np.int64), *(arrays[1] for arrays in segments)])
        segment = np.repeat(np.arange(len(segments), dtype=np.int32), counts)
        row = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)]).astype(np.int64)
        order = np.lexsort((segment, times, keys))
        return _Index(keys[order], times[order], segment[order], row[order])

    def find(self, keys: np.ndarray, now: np.ndarray) -> np.ndarray:
        """[B] int64: the place of the newest entry of each key at or before its time, -1 where there is none."""
        first = np.searchsorted(self.keys, keys, side="left")
        place = np.searchsorted(self.keys, keys, side="right") - 1
        while True:  # as often as a key was written after its time
            late = place >= first
            late[late] = self.written_at[place[late]] > now[late]
            if not late.any():
                return np.where(place >= first, place, -1)
            place[late] -= 1


def _save(path: Path, array: np.ndarray) -> None:
    """On the disk when it returns, so that a power cut after the renaming leaves no empty file under a good name."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _open_segment(folder: Path) -> tuple[np.ndarray, ...]:
    try:
        arrays = tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: damaged ({error}); remove the folder, what it held is then missed") from None
    if len({len(array) for array in arrays}) != 1:
        raise UserError(f"{folder}: damaged (arrays of unequal length); remove the folder, what it held is then missed")
    return arrays
