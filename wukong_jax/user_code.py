"""Names the file and line of a mistake in code of the user: a config file, or a part from another package."""

import site
import sys
import sysconfig
import traceback
from pathlib import Path

import wukong_jax

_LIBRARIES = tuple(
    Path(str(folder)).resolve()
    for folder in (
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        str(Path(str(wukong_jax.__file__)).parent),
    )
)


def describe_mistake(error: BaseException, place: str, own: Path | None = None) -> str:
    """Describes an exception in code of the user in one line, "FILE, line N: KeyError: 'widths'".

    Args:
      error: the exception.
      place: what to name if no frame of the traceback is in code of the user.
      own: a folder whose files are code of the user, even inside a library.
    """
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename).resolve()
        if (own is not None and file.is_relative_to(own)) or (file.is_file() and not _is_library(file)):
            place = f"{frame.filename}, line {frame.lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno}"
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return f"{place.removeprefix(f'{Path.cwd()}/')}: {type(error).__name__}" + (f": {text}" if text else "")


def _is_library(file: Path) -> bool:
    return any(file.is_relative_to(folder) for folder in _LIBRARIES) or file.is_relative_to(Path(sys.base_prefix))
