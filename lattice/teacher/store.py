"""Key-value store of a teacher's outputs on disk: embeddings and logits by 64-bit key, with the time of writing.

    FOLDER/store.json                 width, objectives, key columns
    FOLDER/next_segment               number of the next segment
    FOLDER/segment-00000007/*.npy     keys, written_at, embeddings, logits of one write, sorted by (key, time)

A segment is written under a temporary name and renamed. A crashed writer thus leaves only complete segments and an
unfinished folder, which the next writer removes. Readers see a segment completely or not at all, and find new ones by
`refresh`. Segments are memory-mapped: a look-up reads only the rows it finds.
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
    """Content of `store.json`."""

    width: int  # d, width of an embedding
    objectives: tuple[str, ...]  # of the logits
    key_columns: tuple[str, ...]  # id columns that form a key, in order
    with_timestamp: bool = False  # whether the row's timestamp is part of the key, so that a key is one impression
    version: int = _VERSION


class Knowledge(NamedTuple):
    """Entries found for B keys at their times."""

    hit: np.ndarray  # [B] bool
    age: np.ndarray  # [B] int64, seconds since the entry was written; 0 for misses
    embeddings: np.ndarray  # [B, d] float32, zeros for misses
    logits: np.ndarray  # [B, O] float32, zeros for misses


class TeacherStore:
    """A store open for reading and writing; one writer at a time, any number of readers."""

    def __init__(self, folder: str | Path) -> None:
        """Opens an existing store.

        Raises:
          UserError: the folder holds no store, or one of another version.
        """
        self.folder = Path(folder)
        try:
            mapping = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"store {self.folder}: {error.strerror}; write one with wukong-jax run_teacher") from None
        except ValueError as error:
            raise UserError(f"store {self.folder}: store.json is not JSON ({error}); write the store again") from None
        self.description = build_dataclass(StoreDescription, mapping, f"{self.folder}/store.json")
        if self.description.version != _VERSION:
            raise UserError(
                f"store {self.folder}: version {self.description.version}, this program reads {_VERSION}; rewrite it"
            )
        self._segments: dict[str, tuple[np.ndarray, ...]] = {}
        self._index = _Index.build([])
        self.refresh()

    def refresh(self) -> None:
        """Picks up segments that were written or removed since the last refresh."""
        names = sorted(path.name for path in self.folder.glob("segment-*") if path.is_dir())
        for name in names:
            if name not in self._segments:
                try:
                    self._segments[name] = _open_segment(self.folder / name)
                except UserError:
                    if (self.folder / name).exists():  # else it was removed after listing
                        raise
        self._segments = {name: self._segments[name] for name in names if name in self._segments}
        self._index = _Index.build(list(self._segments.values()))

    def read(self, keys: np.ndarray, now: np.ndarray, time_to_live: float) -> Knowledge:
        """Looks up the newest entry of each key written at or before its time, if it is not too old.

        Args:
          keys: [B] uint64.
          now: [B] int64, time of each look-up in seconds.
          time_to_live: largest age of an entry in seconds.

        Returns:
          The entries found.
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
        """Adds a segment; of equal (key, time) pairs, the last one is kept.

        Args:
          keys: [n] uint64.
          written_at: [n] int64, seconds.
          embeddings: [n, d], stored as float16.
          logits: [n, O], stored as float32.

        Raises:
          UserError: another process is writing, the arrays have the wrong shape, contain values that are not finite or
            too large for float16, or the disk is full.
        """
        arrays = self._check(keys, written_at, embeddings, logits)
        with hold_lock(self.folder / ".writer", f"store {self.folder}: another process is writing to it; wait for it"):
            for rubbish in self.folder.glob(".unfinished-*"):  # left by a crashed writer
                shutil.rmtree(rubbish, ignore_errors=True)
            taken = [int(path.name.removeprefix("segment-")) for path in self.folder.glob("segment-*")]
            counter = self.folder / "next_segment"  # never decreases: readers may still map a removed segment of a name
            number = max(
                [int(counter.read_text(encoding="utf-8")) if counter.exists() else 0, *(one + 1 for one in taken)]
            )
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
        """Removes the segments whose entries were all written before a time; returns their number."""
        with hold_lock(self.folder / ".writer", f"store {self.folder}: another process is writing to it; wait for it"):
            self.refresh()  # another process may have written or removed segments
            old = [name for name, arrays in self._segments.items() if arrays[1].max() < before]
            for name in old:
                (self.folder / name).rename(self.folder / f".unfinished-{name}")  # hides it from readers at once
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
    """Creates an empty store, or opens an existing one.

    Raises:
      UserError: the folder holds a store with another description, or cannot be written.
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
    """Index of the keys of all segments, sorted by key, then time, then segment."""

    keys: np.ndarray  # [n] uint64
    written_at: np.ndarray  # [n] int64
    segment: np.ndarray  # [n] int32
    row: np.ndarray  # [n] int64, row within the segment

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
        """Returns [B] int64: index of the newest entry of each key at or before its time, -1 if there is none."""
        first = np.searchsorted(self.keys, keys, side="left")
        place = np.searchsorted(self.keys, keys, side="right") - 1
        while True:  # each pass skips one entry that was written after the time of the look-up
            late = place >= first
            late[late] = self.written_at[place[late]] > now[late]
            if not late.any():
                return np.where(place >= first, place, -1)
            place[late] -= 1


def _save(path: Path, array: np.ndarray) -> None:
    """Saves an array and syncs it to disk, so that a power cut after the rename cannot leave an empty file."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def _open_segment(folder: Path) -> tuple[np.ndarray, ...]:
    try:
        arrays = tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: damaged ({error}); remove the folder, look-ups then miss its entries") from None
    if len({len(array) for array in arrays}) != 1:
        raise UserError(f"{folder}: damaged (arrays of unequal length); remove the folder, what it held is then missed")
    return arrays
