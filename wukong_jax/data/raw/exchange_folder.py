"""Lets processes that prepare data together pass arrays and tables through a folder that all of them see."""

import io
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_bytes_whole
from wukong_jax.sharding.team import Team


class ExchangeFolder:
    """Arrays and tables by name and process. What is put is there for the others after the next `Team.wait`."""

    def __init__(self, folder: Path, team: Team) -> None:
        """Stores the place; the folder is created when something is put."""
        self._folder, self._team = folder, team
        self._calls = 0

    def put_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Puts this process's arrays.

        Raises:
          UserError: the folder cannot be written.
        """
        content = io.BytesIO()
        np.savez(content, **dict(arrays))  # type: ignore[arg-type]
        self._put(f"{name}.{self._team.index}.npz", content.getvalue())

    def get_arrays(self, name: str, process: int) -> dict[str, np.ndarray]:
        """Returns the arrays that a process has put."""
        with np.load(self._find(f"{name}.{process}.npz"), allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    def put_table(self, name: str, frame: pl.DataFrame) -> None:
        """Puts this process's table.

        Raises:
          UserError: the folder cannot be written.
        """
        content = io.BytesIO()
        frame.write_parquet(content)
        self._put(f"{name}.{self._team.index}.parquet", content.getvalue())

    def get_tables(self, name: str) -> pl.DataFrame:
        """Returns the tables of all processes, one below the other."""
        return pl.concat(
            [
                pl.read_parquet(io.BytesIO(self._find(f"{name}.{process}.parquet").read_bytes()))
                for process in range(self._team.count)
            ]
        )

    def add_up(self, counts: np.ndarray) -> np.ndarray:
        """Returns the sum of the counts of all processes, which call this together."""
        self._calls += 1
        name = f"sum-{self._calls}"
        self.put_arrays(name, {"counts": counts})
        self._team.wait(name)
        return np.sum([self.get_arrays(name, process)["counts"] for process in range(self._team.count)], axis=0)

    def remove(self) -> None:
        """Deletes everything; for the lead, when all have what they need."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _put(self, name: str, content: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_bytes_whole(self._folder / name, content)
        except OSError as error:
            raise UserError(f"{self._folder}: cannot write ({error.strerror}); free space") from None

    def _find(self, name: str) -> Path:
        path = self._folder / name
        if not path.exists():
            raise UserError(f"{path}: is missing here; give all processes an --output that they all see")
        return path
