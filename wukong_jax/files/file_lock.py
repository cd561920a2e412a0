"""Provides a lock between processes, which is released when its holder ends for any reason."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from wukong_jax.errors import BusyError


@contextlib.contextmanager
def hold_lock(path: Path, busy: str = "", remove: bool = False) -> Iterator[None]:
    """Holds the lock of a file, which is created if missing.

    Args:
      path: the file, in an existing folder.
      busy: message of the error if another process holds the lock; empty: wait for it.
      remove: delete the file at the end; every process that uses this lock must pass the same.

    Raises:
      BusyError: another process holds the lock, and `busy` is given.
      OSError: the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_open_locked(path, busy))
        while remove and not _is_at(file, path):  # its last holder deleted it while this process waited
            stack.close()
            file = stack.enter_context(_open_locked(path, busy))
        try:
            yield
        finally:
            if remove:
                path.unlink(missing_ok=True)


def _open_locked(path: Path, busy: str) -> IO[str]:
    file = path.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
    except BlockingIOError:
        file.close()
        raise BusyError(busy) from None
    except BaseException:
        file.close()
        raise
    return file


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
