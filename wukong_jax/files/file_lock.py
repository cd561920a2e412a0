"""Provides a lock between processes, which is released when its holder ends for any reason."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from wukong_jax.errors import BusyError


@contextlib.contextmanager
def hold_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Holds the lock of a file, which is created if missing.

    Args:
      path: the file, in an existing folder.
      busy: message of the error if another process holds the lock; empty: wait for it.

    Raises:
      BusyError: another process holds the lock, and `busy` is given.
      OSError: the file cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise BusyError(busy) from None
        yield
