"""A lock between processes, held by an open file: it is let go when its holder ends, however that happens."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from wukong_jax.errors import BusyError


@contextlib.contextmanager
def hold_lock(path: Path, busy: str = "") -> Iterator[None]:
    """Holds the lock of a file, which is made if it is not there.

    Args:
      path: the file; its folder must be there.
      busy: what to refuse with where another process holds it; empty: wait for it.

    Raises:
      BusyError: `busy`.
      OSError: the file cannot be written.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise BusyError(busy) from None
        yield
