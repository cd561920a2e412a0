"""Keeps a run's folder on an object store in step with a working folder on this machine.

A run whose `--workdir` is a URL works in a temporary folder of its own, with files that grow, memory maps and event
files. What is kept goes over:

- Small files (config, metrics, summary, report, TensorBoard events): all that changed, before each checkpoint, every
  few seconds by the lock's thread, and at the end.
- Checkpoints: Orbax writes to gs:// itself, from every process. To other stores, one process copies a checkpoint when
  it is complete, and its marker last; an older one is deleted when a newer one has its marker.
- Rows that the run prepared itself: when they are complete, `schema.json` last.

At a start the small files and the newest checkpoints are fetched; record files of rows when they are first read.
"""

import atexit
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from wukong_jax.data.blocks.store_copy import copy_rows, is_store_copy
from wukong_jax.errors import UserError
from wukong_jax.files.object_store import ObjectFolder, publish_folder
from wukong_jax.files.store_lock import LOCK, StoreLock, hold_store_lock

COMMITTED = "commit_success.txt"  # the marker of a checkpoint, as Orbax calls it on gs://
_NOT_SMALL = ("checkpoints/", "data/", "data.", LOCK)
_Which = Literal["latest", "best"]


def make_working_folder() -> Path:
    """Makes a folder in the system's temporary folder that is deleted when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="wukong-jax-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class StoreMirror:
    """The store's side of a run's folder."""

    def __init__(self, url: str, local: Path) -> None:
        """Connects; fetches and writes nothing.

        Args:
          url: the run's folder.
          local: the working folder.

        Raises:
          UserError: the store cannot be opened.
        """
        self.folder = ObjectFolder(url)
        self._local = local
        self._pushed: dict[str, tuple[int, int]] = {}  # size and time of each small file as the store has it
        self._pushing = threading.Lock()
        self._held: StoreLock | None = None

    def fetch(self, checkpoints: bool) -> None:
        """Copies the small files here, and perhaps the newest checkpoints.

        Args:
          checkpoints: whether to copy the newest complete one of each kind.

        Raises:
          UserError: the store does not answer.
        """
        found = self.folder.list()
        wanted = {name: self._local / name for name in found if _is_small(name) and not name.startswith("tensorboard/")}
        self.folder.download(wanted)
        self._pushed |= {name: _describe(path) for name, path in wanted.items()}
        for which in ("latest", "best") if checkpoints else ():
            steps = list_steps(found, f"checkpoints/{which}")
            if steps:
                start = f"checkpoints/{which}/{max(steps)}/"
                own = {name: self._local / name for name in found if name.startswith(start)}
                own.pop(start + COMMITTED)
                self.folder.download(own)

    def fetch_rows(self, directory: Path) -> None:
        """Copies the run's own prepared rows here, unless they are; record files follow when they are read."""
        if not directory.exists() and self.folder.read("data/schema.json") is not None:
            copy_rows(f"{self.folder.url}/data", directory)

    def publish_rows(self, directory: Path) -> None:
        """Puts rows that were prepared here."""
        if directory.exists() and not is_store_copy(directory):
            publish_folder(directory, self.folder / "data", "schema.json")

    def push(self) -> None:
        """Puts the small files that have changed, and deletes those that are gone here.

        Raises:
          UserError: the store refuses one, or another process holds the folder's lock.
        """
        self.check()
        self._push_changed()

    def _push_changed(self) -> None:
        with self._pushing:
            now = {name: (path, _describe(path)) for name, path in self._list_small()}
            changed = {name: path for name, (path, state) in now.items() if self._pushed.get(name) != state}
            self.folder.upload(changed)
            self._pushed |= {name: now[name][1] for name in changed}
            gone = [name for name in self._pushed if name not in now]
            self.folder.remove(gone)
            for name in gone:
                del self._pushed[name]

    def check(self) -> None:
        """Raises what went wrong while small files were put, or that another process has taken the folder."""
        if self._held is not None:
            self._held.check()

    def publish_checkpoint(self, which: _Which, keep: int) -> None:
        """Puts the newest checkpoint of the working folder, then deletes the oldest ones above `keep`.

        Raises:
          UserError: the store refuses it; the one before stays.
        """
        local = self._local / "checkpoints" / which
        step = max(int(path.name) for path in local.iterdir() if path.name.isdigit())
        target = self.folder / f"checkpoints/{which}"
        publish_folder(local / str(step), target / str(step), COMMITTED, mark=b"")
        found = target.list()
        steps = sorted(list_steps(found, ""))
        for old in steps[:-keep]:
            names = [name for name in found if name.startswith(f"{old}/")]
            target.remove(sorted(names, key=lambda name: not name.endswith(COMMITTED)))  # its marker first

    def remove_cut_off_saves(self) -> list[str]:
        """Deletes the objects of checkpoints that have no marker, because their save was cut off.

        Returns:
          A message for each.

        Raises:
          UserError: the store does not answer.
        """
        said, found = [], self.folder.list()
        for which in ("latest", "best"):
            start = f"checkpoints/{which}/"
            begun = {name.removeprefix(start).split("/")[0] for name in found if name.startswith(start)}
            whole = list_steps(found, f"checkpoints/{which}")
            for step in sorted(int(name) for name in begun if name.isdigit() and int(name) not in whole):
                self.folder.remove([name for name in found if name.startswith(f"{start}{step}/")])
                said.append(f"removed {start}{step}: the save of step {step} was cut off, an earlier one stays")
        return said

    @contextlib.contextmanager
    def locked(self, busy: str) -> Iterator[None]:
        """Holds the folder's lock; small files that change meanwhile are put every few seconds, and at the end.

        Raises:
          BusyError: another process holds it.
          UserError: the store refuses it or does not answer.
        """
        with hold_store_lock(self.folder, busy, self._push_changed) as self._held:
            try:
                yield
            except BaseException:
                with contextlib.suppress(UserError):  # the error on its way is the one to report
                    self.push()
                raise
            self.push()
        self._held = None

    def _list_small(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self._local.rglob("*")):
            name = path.relative_to(self._local).as_posix()
            if path.is_file() and _is_small(name):
                yield name, path


def list_steps(names: Collection[str], start: str) -> set[int]:
    """Returns the steps that have their marker, of the names of objects below a folder of checkpoints.

    Args:
      names: names of objects.
      start: the folder; empty if they are relative to it.
    """
    parts = [name.removeprefix(f"{start}/" if start else "").split("/") for name in names if name.startswith(start)]
    return {int(part[0]) for part in parts if len(part) == 2 and part[1] == COMMITTED and part[0].isdigit()}


def _is_small(name: str) -> bool:
    return not name.startswith(_NOT_SMALL) and not name.endswith((".writing", ".fetching"))


def _describe(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:  # deleted meanwhile
        return (0, 0)
    return found.st_size, found.st_mtime_ns
