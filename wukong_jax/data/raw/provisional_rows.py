"""Stores encoded rows on disk between reading and writing, while their ids and splits are not yet known."""

import dataclasses
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from wukong_jax.data.raw.row_encoder import EncodedRows
from wukong_jax.data.raw.splits import SplitRule
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Chunk:
    path: Path
    file: Path  # raw file
    file_split: int
    first_position: int
    rows: int
    starts: dict[str, int]  # byte where each array starts


@dataclasses.dataclass(frozen=True)
class PlacedRows:
    """A chunk of rows with what decides about their split."""

    encoded: EncodedRows
    first_position: int  # of the first row, among all rows in input order
    rows: int
    file_split: int  # the split of the rows' file

    def assign(self, rule: SplitRule) -> np.ndarray:
        """Returns the split of each row, [rows] uint8; needs the array `timestamp`."""
        positions = np.arange(self.first_position, self.first_position + self.rows, dtype=np.int64)
        return rule.assign(positions, self.encoded.arrays["timestamp"], self.file_split)


class ProvisionalRows:
    """A list of chunks of rows on disk, in input order."""

    def __init__(self, directory: Path) -> None:
        """Creates an empty list; the folder is made with the first chunk."""
        self._directory = directory
        self._chunks: list[_Chunk] = []

    def append(self, placed: PlacedRows) -> None:
        """Adds a chunk of rows.

        Raises:
          UserError: the chunk cannot be written, for example because the disk is full.
        """
        encoded = placed.encoded
        path = self._directory / f"{len(self._chunks):06d}"
        try:
            starts = {}
            self._directory.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for name, array in encoded.arrays.items():
                    starts[name] = file.tell()
                    np.save(file, array)
        except OSError as error:
            reason = error.strerror or f"disk full: {error}"  # numpy gives no error number
            raise UserError(f"{path}: cannot write ({reason}); free space or choose another output") from None
        self._chunks.append(_Chunk(path, encoded.file, placed.file_split, placed.first_position, placed.rows, starts))

    def read(self, names: Collection[str] | None = None) -> Iterator[PlacedRows]:
        """Yields the rows in order.

        Args:
          names: the arrays to read; None for all of them.
        """
        for chunk in self._chunks:
            arrays = {}
            with chunk.path.open("rb") as file:
                for name, start in chunk.starts.items():
                    if names is None or name in names:
                        file.seek(start)
                        arrays[name] = np.load(file)
            yield PlacedRows(EncodedRows(chunk.file, arrays, {}), chunk.first_position, chunk.rows, chunk.file_split)

    def remove(self) -> None:
        """Deletes the folder."""
        if self._chunks:
            shutil.rmtree(self._directory)

    def timestamps(self) -> Iterator[np.ndarray]:
        """Yields every chunk's timestamps, [rows] int64."""
        for placed in self.read(["timestamp"]):
            yield placed.encoded.arrays["timestamp"]
