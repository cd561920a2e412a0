r"""Gives folders whose path a library would misread a second, plain path.

Orbax finds the parts of a checkpoint by a glob pattern that starts with the whole path, so `[`, `*` or `?` anywhere in
it lose the checkpoint or take files of other folders, and it reads `gs:/` as a bucket. Tensorstore takes `\` for `/`.
Linux gives every open folder the path /proc/self/fd/NUMBER, which is valid in this process as long as it is open.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from wukong_jax.errors import UserError

_MISREAD = re.compile(r"[\\\[\]*?\ud800-\udfff]|:/")  # surrogates stand for bytes that are not UTF-8
_OPEN_FOLDERS = Path("/proc/self/fd")


def check_path_readable(folder: Path) -> None:
    """Checks that `plain_path` will work for a folder, which need not exist yet.

    Raises:
      UserError: libraries would misread the path, and the system gives no other.
    """
    misread = _MISREAD.search(str(folder.absolute()))
    if misread and not _OPEN_FOLDERS.is_dir():
        raise UserError(
            f"{str(folder)!r}: checkpoints cannot be stored under a path with {misread[0]!r}; choose another name"
        )


@contextlib.contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Yields a path of an existing folder that no library misreads: its own, or one that is valid within the context.

    Raises:
      UserError: see `check_path_readable`.
    """
    check_path_readable(folder)
    if not _MISREAD.search(str(folder.absolute())):
        yield folder.absolute()
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _OPEN_FOLDERS / str(opened)
    finally:
        os.close(opened)
