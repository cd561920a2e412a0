"""Writes a folder atomically: under a temporary name, renamed at the end; one process at a time."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wukong_jax.errors import UserError
from wukong_jax.files.file_lock import hold_lock


@contextmanager
def write_whole_folder(directory: Path, replace: bool = False) -> Iterator[Path]:
    """Yields a new temporary folder that becomes the target when the body ends without an error.

    Args:
      directory: the target, which must not exist unless `replace`.
      replace: whether an existing target may be replaced.

    Yields:
      The folder to write to; it is deleted if the body raises.

    Raises:
      UserError: the target exists already, another process is writing it (a BusyError), or writing fails.
    """
    with lock_folder(directory):
        if directory.exists() and not replace:
            raise UserError(f"{directory}: exists already; remove it or choose another folder")
        aside = _beside(directory, "writing")
        try:
            aside.mkdir()
            yield aside
            rename_folder(aside, directory)
        except OSError as error:
            raise _cannot_write(directory, error) from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def lock_folder(directory: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a folder that is to be written, and removes what a process that was killed left beside it.

    The lock is a file beside the folder, which is deleted at the end.

    Args:
      directory: the folder, which need not exist.
      wait: wait until no other process holds the lock.

    Raises:
      BusyError: another process holds the lock, and `wait` is not set.
      UserError: the file of the lock cannot be written.
    """
    busy = f"{directory}: another process is writing this folder; wait for it, or choose another folder"
    with ExitStack() as held:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold_lock(_beside(directory, "lock"), "" if wait else busy, remove=True))
            _clean_up(directory)
        except OSError as error:
            raise _cannot_write(directory, error) from None
        yield


def rename_folder(aside: Path, directory: Path) -> None:
    """Gives a folder the name of another one, which it replaces if it exists.

    Raises:
      OSError: renaming fails.
    """
    if not directory.exists():
        aside.rename(directory)
        return
    replaced = _beside(directory, "replaced")
    directory.rename(replaced)
    aside.rename(directory)
    shutil.rmtree(replaced)


def _beside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f"{directory.name}.{suffix}")


def _cannot_write(directory: Path, error: OSError) -> UserError:
    return UserError(f"{directory}: cannot write ({error.strerror}); free space or choose another folder")


def _clean_up(directory: Path) -> None:
    """Removes temporary folders of a killed process; a replaced folder without its successor gets its name back."""
    shutil.rmtree(_beside(directory, "writing"), ignore_errors=True)
    replaced = _beside(directory, "replaced")
    if replaced.exists() and not directory.exists():
        replaced.rename(directory)
    shutil.rmtree(replaced, ignore_errors=True)
