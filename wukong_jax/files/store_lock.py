"""Holds a folder of an object store for one process, by an object that its holder writes again and again.

The object `.lock` has the holder's host, process number, a random token and a count. It is created on the condition
that there is none (where the store looks at conditions; both Google's and Amazon's do), and read again. The holder
counts it up every few seconds. Whoever finds a lock waits until the count moves, and is then refused; if it has not
moved for `STALE_SECONDS`, or the holder was a process of the same host that has ended, the holder is taken for dead and
the lock is taken over. A holder that finds another's token, because it was stopped or cut off for so long, has lost the
lock, and `check` raises.

This is a lease and not a proof: a holder that is cut off may write for a few seconds beside its successor.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from wukong_jax.errors import BusyError, UserError
from wukong_jax.files.object_store import ObjectFolder

LOCK = ".lock"
BEAT_SECONDS = 5.0
STALE_SECONDS = 45.0
_POLL_SECONDS = 1.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_own_tokens: set[str] = set()


@dataclasses.dataclass(frozen=True)
class _Holder:
    host: str
    space: str  # in which the process number counts: of the system since its start, and of its container
    process: int
    token: str
    count: int = 0

    def to_bytes(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self)) + "\n").encode()


class StoreLock:
    """A lock that this process holds."""

    def __init__(self, folder: ObjectFolder, holder: _Holder, act: Callable[[], None]) -> None:
        """Starts the thread that counts the lock up, and calls `act` each time."""
        self._folder, self._holder, self._act = folder, holder, act
        self._failure: UserError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="store lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what has gone wrong in the thread.

        Raises:
          BusyError: another process has taken the lock over.
          UserError: the thread's `act` has failed.
        """
        if self._failure is not None:
            raise self._failure

    def release(self) -> None:
        """Ends the thread and deletes the lock, if it is still this process's."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(UserError):  # a lock that stays is found stale
            if _read(self._folder) == self._holder:
                self._folder.remove([LOCK])

    def _beat(self) -> None:
        silent_since = time.monotonic()
        while not self._ended.wait(BEAT_SECONDS):
            try:
                found = _read(self._folder)
                if found is None or found.token != self._holder.token:
                    by = "nobody" if found is None else f"process {found.process} on {found.host}"
                    self._failure = BusyError(f"{self._folder.url}: its lock is now held by {by}; start this run again")
                    return
                following = dataclasses.replace(self._holder, count=self._holder.count + 1)
                self._folder.write(LOCK, following.to_bytes())
                self._holder = following
                self._act()
                silent_since = time.monotonic()
                self._failure = None
            except UserError as error:  # perhaps a short failure of the network
                if time.monotonic() - silent_since > STALE_SECONDS:
                    self._failure = error


@contextlib.contextmanager
def hold_store_lock(folder: ObjectFolder, busy: str, act: Callable[[], None]) -> Iterator[StoreLock]:
    """Holds the lock of a folder.

    Args:
      folder: the folder.
      busy: message of the error if another process holds it.
      act: is called every `BEAT_SECONDS` by a thread, to write what has changed.

    Raises:
      BusyError: another process holds the lock.
      UserError: the store refuses it or does not answer.
    """
    own = _Holder(socket.gethostname(), _find_process_space(), os.getpid(), secrets.token_hex(8))
    _own_tokens.add(own.token)
    while not folder.create(LOCK, own.to_bytes()):
        _await_stale(folder, busy)
    if _read(folder) != own:  # created at the same time, on a store that does not look at conditions
        raise BusyError(busy)
    lock = StoreLock(folder, own, act)
    try:
        yield lock
    finally:
        lock.release()


def _await_stale(folder: ObjectFolder, busy: str) -> None:
    """Deletes a lock whose holder has ended; returns when there is none.

    Raises:
      BusyError: its holder lives.
    """
    found = _read(folder)
    if found is not None and not _has_ended_here(found):
        print(
            f"{folder.url}: process {found.process} on {found.host} left or holds its lock; waiting at most "
            f"{STALE_SECONDS:.0f} s to see whether it lives",
            file=sys.stderr,
            flush=True,
        )
        end = time.monotonic() + STALE_SECONDS
        while time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
            now = _read(folder)
            if now is None:
                return
            if now != found:
                raise BusyError(busy)
    if found is not None and _read(folder) == found:
        folder.remove([LOCK])


def _has_ended_here(holder: _Holder) -> bool:
    """Whether the holder was a process of this host that is gone; this one's number was an earlier process's."""
    if not holder.space or (holder.host, holder.space) != (socket.gethostname(), _find_process_space()):
        return False
    if holder.process == os.getpid():
        return holder.token not in _own_tokens
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _find_process_space() -> str:
    """Names what a process number belongs to; empty if the system does not say."""
    try:
        return f"{_BOOT.read_text(encoding='utf-8').strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _read(folder: ObjectFolder) -> _Holder | None:
    content = folder.read(LOCK)
    if content is None:
        return None
    try:
        return _Holder(**json.loads(content))
    except (ValueError, TypeError):
        return _Holder("an unknown host", "", 0, content[:64].hex())
