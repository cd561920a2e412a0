"""The conversion log: which impressions converted, for which objective, and when.

An impression log (row blocks in the order of time) says what was shown; conversions come later, by minutes or days.
They are kept apart and point at the impression's row, so that a replay can tell what was known at any second.
"""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import open_whole

_DTYPES = {"impression": np.dtype(np.int64), "objective": np.dtype(np.int32), "timestamp": np.dtype(np.int64)}


@dataclasses.dataclass(frozen=True, eq=False)
class ConversionLog:
    """Conversions in the order of their time; `n` of them, of one split's impressions."""

    impression: np.ndarray  # [n] int64, row number in the impression log, 0 the first
    objective: np.ndarray  # [n] int32, position in the schema's labels
    timestamp: np.ndarray  # [n] int64 seconds of the conversion, ascending; equal ones may follow each other

    def __post_init__(self) -> None:
        """Refuses arrays that are not such a log.

        Raises:
          UserError: the name, what is wrong and where.
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
        # Compared, not subtracted: a difference of two int64 may overflow.
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
    """A log from conversions in any order; equal seconds are ordered by impression, then objective.

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
    """Writes a log as .npz, aside, then renames: a reader never sees half of it.

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
    """Reads a log.

    Raises:
      UserError: the file is missing, damaged or no conversion log.
    """
    try:
        with np.load(Path(path), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _DTYPES}
    except FileNotFoundError:
        raise UserError(f"conversion log {path}: no such file; give the .npz that goes with the impressions") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"conversion log {path}: damaged or no conversion log ({reason}); make it again") from None
    try:
        return ConversionLog(**arrays)
    except UserError as error:
        raise UserError(f"conversion log {path}: {error}") from None
