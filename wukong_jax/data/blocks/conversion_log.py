"""Stores the conversion log, which records the impressions that converted, their objectives and their times.

The impression log (row blocks in time order) records what was shown. Conversions follow minutes or days later. They
are stored separately and refer to the impression's row, so that a replay can reconstruct what was known at any second.
"""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import open_whole
from wukong_jax.messages import first_line

_DTYPES = {"impression": np.dtype(np.int64), "objective": np.dtype(np.int32), "timestamp": np.dtype(np.int64)}


@dataclasses.dataclass(frozen=True, eq=False)
class ConversionLog:
    """The `n` conversions of one split's impressions, in time order."""

    impression: np.ndarray  # [n] int64, row number in the impression log, from 0
    objective: np.ndarray  # [n] int32, position in the schema's labels
    timestamp: np.ndarray  # [n] int64, second of the conversion, ascending; ties are allowed

    def __post_init__(self) -> None:
        """Checks the arrays.

        Raises:
          UserError: an array has a wrong shape, dtype or value.
        """
        for name, dtype in _DTYPES.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (len(self.timestamp),):
                raise UserError(
                    f"{name} of a conversion log: {array.dtype}{list(array.shape)}, must be "
                    f"{dtype}[{len(self.timestamp)}], one for each timestamp"
                )
        for name in ("impression", "objective"):
            negative = np.flatnonzero(getattr(self, name) < 0)
            if len(negative):
                raise UserError(f"{name}[{negative[0]}] = {getattr(self, name)[negative[0]]}: must be at least 0")
        # Compared rather than subtracted, because the difference of two int64 may overflow.
        earlier = np.flatnonzero(self.timestamp[1:] < self.timestamp[:-1])
        if len(earlier):
            place = int(earlier[0]) + 1
            raise UserError(
                f"timestamp[{place}] = {self.timestamp[place]}: earlier than the one before it "
                f"({self.timestamp[place - 1]}); sort the log by timestamp"
            )

    def __len__(self) -> int:
        return len(self.timestamp)


def build_conversion_log(impression: np.ndarray, objective: np.ndarray, timestamp: np.ndarray) -> ConversionLog:
    """Builds a log from conversions in any order; those of the same second are sorted by impression, then objective.

    Args:
      impression: [n] row numbers.
      objective: [n] positions in the schema's labels.
      timestamp: [n] seconds.
    """
    order = np.lexsort((objective, impression, timestamp))
    return ConversionLog(
        impression[order].astype(np.int64), objective[order].astype(np.int32), timestamp[order].astype(np.int64)
    )


def save_conversion_log(log: ConversionLog, path: str | Path) -> None:
    """Writes a log as .npz; readers never see a partly written file.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        with open_whole(Path(path), "wb") as file:
            np.savez_compressed(file, **{name: getattr(log, name) for name in _DTYPES})
    except OSError as error:
        raise UserError(
            f"conversion log {path}: cannot write ({error.strerror}); free space or choose another file"
        ) from None


def load_conversion_log(path: str | Path) -> ConversionLog:
    """Reads a log written by `save_conversion_log`.

    Raises:
      UserError: the file is missing, damaged or not a conversion log.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _DTYPES}
    except FileNotFoundError:
        raise UserError(f"conversion log {path}: no such file; give the .npz that goes with the impressions") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"conversion log {path}: damaged or not a conversion log ({first_line(error)}); create it again"
        ) from None
    try:
        return ConversionLog(**arrays)
    except UserError as error:
        raise UserError(f"conversion log {path}: {error}") from None
