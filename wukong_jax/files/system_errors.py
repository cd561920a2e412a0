"""Recognises failures of the system, such as a full disk, also where a library wraps them in its own exception."""

import errno
import os
import re
from collections.abc import Iterator

_NUMBERED = re.compile(r"\[?(?:OS error|Errno) (\d+)\b")
# Failures of the place where a file is to be written; another error number may come from a mistake in the program.
_OF_THE_PLACE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EMFILE,
    errno.ESTALE,
)


def describe_system_error(error: BaseException) -> str | None:
    """Returns the system's words for an exception that the storage caused, such as "no space left on device".

    Args:
      error: an OSError, an exception with one in its chain of causes, or one whose text tells the error's number, as
        the exceptions of tensorstore do.

    Returns:
      The words, without a file name; None if the exception has another cause.
    """
    for link in _chain(error):
        number = link.errno if isinstance(link, OSError) else _read_number(str(link))
        if number in _OF_THE_PLACE:
            return os.strerror(number).lower()
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _read_number(text: str) -> int | None:
    numbered = _NUMBERED.search(text)
    if numbered:
        return int(numbered[1])
    return next((number for number in _OF_THE_PLACE if os.strerror(number) in text), None)
