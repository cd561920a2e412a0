"""Stores encoded rows on disk between reading and writing, while their ids and splits are not yet known."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wukong_jax.data.raw.row_encoder import EncodedRows
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Chunk:
    path: Path
    file: Path  # raw file
    file_split: int
    first_position: int
    rows: int


class ProvisionalRows:
    """A list of chunks of rows on disk, in input order."""

    def __init__(self, directory: Path) -> None:
        """Creates an empty list in a new folder."""
        self._directory = directory
        self._chunks: list[_Chunk] = []
        self.rows = 0
        directory.mkdir(parents=True)

    def append(self, encoded: EncodedRows, file_split: int) -> None:
        """Adds a chunk of rows of a file that belongs to the split `file_split`.

        Raises:
          UserError: the chunk cannot be written, for example because the disk is full.
        """
        path = self._directory / f"{len(self._chunks):06d}"
        try:
            with path.open("wb") as file:
                np.save(file, np.array(sorted(encoded.arrays)))
                for name in sorted(encoded.arrays):
                    np.save(file, encoded.arrays[name])
        except OSError as error:
            reason = error.strerror or f"disk full: {error}"  # numpy gives no error number
            raise UserError(f"{path}: cannot write ({reason}); free space or choose another output") from None
        self._chunks.append(_Chunk(path, encoded.file, file_split, self.rows, encoded.rows))
        self.rows += encoded.rows

    def read(self) -> Iterator[tuple[EncodedRows, np.ndarray, int]]:
        """Yields (rows, positions of the rows among all rows as [rows] int64, split of their file) in order."""
        for chunk in self._chunks:
            with chunk.path.open("rb") as file:
                arrays = {str(name): np.load(file) for name in np.load(file)}
            positions = np.arange(chunk.first_position, chunk.first_position + chunk.rows, dtype=np.int64)
            yield EncodedRows(chunk.file, arrays, {}), positions, chunk.file_split

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self._directory)

    def timestamps(self) -> Iterator[np.ndarray]:
        """Yields every chunk's timestamps, [rows] int64."""
        for encoded, _, _ in self.read():
            yield encoded.arrays["timestamp"]
