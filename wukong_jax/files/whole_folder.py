"""A folder that is whole or not there: written aside under another name, renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wukong_jax.errors import UserError


@contextmanager
def write_whole_folder(directory: Path, replace: bool = False) -> Iterator[Path]:
    """Gives a fresh folder beside the target, which becomes the target when the body ends without an error.

    Args:
      directory: must not exist, unless `replace`.
      replace: whether the folder may take the place of one that exists.

    Yields:
      The folder to write into; it is removed where the body raises.

    Raises:
      UserError: the directory exists already, or the system cannot write.
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
