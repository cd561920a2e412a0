"""Writes a folder atomically: under a temporary name, renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wukong_jax.errors import UserError


@contextmanager
def write_whole_folder(directory: Path, replace: bool = False) -> Iterator[Path]:
    """Yields a new temporary folder that becomes the target when the body ends without an error.

    Args:
      directory: the target, which must not exist unless `replace`.
      replace: whether an existing target may be replaced.

    Yields:
      The folder to write to; it is deleted if the body raises.

    Raises:
      UserError: the target exists already, or writing fails.
    """
    if directory.exists() and not replace:
        raise UserError(f"{directory}: exists already; remove it or choose another folder")
    aside = directory.with_name(directory.name + ".writing")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        _rename(aside, directory)
    except OSError as error:
        raise UserError(f"{directory}: cannot write ({error.strerror}); free space or choose another folder") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rename(aside: Path, directory: Path) -> None:
    if not directory.exists():
        aside.rename(directory)
        return
    replaced = directory.with_name(directory.name + ".replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    directory.rename(replaced)
    aside.rename(directory)
    shutil.rmtree(replaced)
