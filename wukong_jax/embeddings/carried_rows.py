"""Joins rows of another run's table with a new run's rows, as a logical table that is made while it is read."""

import functools
from typing import Any

import numpy as np

from wukong_jax.embeddings.fresh_rows import FreshTable

NEW = -1  # instead of an old row, for rows that start as a new run's


class CarriedArray:
    """One array of a table; indexing makes the asked rows, or rows and columns, as NumPy arrays do.

    The array of the other run is read whole, once, if it lies in the files of several processes.
    """

    def __init__(self, name: str, fresh: FreshTable, old: Any, old_rows: np.ndarray, shift: int = 0) -> None:
        """Reads nothing yet.

        Args:
          name: name of the array, such as "rows".
          fresh: the table of a new run.
          old: [V_old, ...] array of the other run; of another dtype, its numbers are converted.
          old_rows: [V] integers, the row of `old` for each row, or `NEW`.
          shift: added to the numbers of `old`.
        """
        trailing, self.dtype = fresh.described[name]
        self.shape = (fresh.rows, *trailing)
        self.ndim = len(self.shape)
        self._name, self._fresh, self._stored, self._old_rows, self._shift = name, fresh, old, old_rows, shift

    @functools.cached_property
    def _old(self) -> np.ndarray:
        return np.asarray(self._stored)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Makes rows, or (rows, columns); both are slices without a step."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        ids = np.arange(*rows.indices(self.shape[0]))
        old_rows = self._old_rows[rows]
        made = np.empty((len(ids), *self.shape[1:]), self.dtype)
        new = old_rows == NEW
        if new.any():
            made[new] = self._fresh.make(self._name, ids[new])
        if not new.all():
            taken = self._old[old_rows[~new]]
            made[~new] = (taken + self._shift if self._shift else taken).astype(self.dtype)
        return made[:, columns] if self.ndim == 2 else made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Makes the whole array."""
        return self[:] if dtype is None else self[:].astype(dtype)
