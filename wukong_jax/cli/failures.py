"""Turns whatever ends a command into one line on stderr; the traceback of a defect goes to a file."""

import datetime
import errno
import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from wukong_jax.messages import describe_error

SHOW_TRACEBACK = "WUKONG_JAX_TRACEBACK"  # environment variable; 1: a defect's traceback is printed, too


def describe_failure(error: BaseException, settings: Any) -> str:
    """Describes an exception that is no mistake of the user in one line.

    Known failures of the machine (no such backend, a full disk, not enough memory, a locale that cannot name a file)
    are described with a fix. Anything else is a defect of the program, whose traceback is written to a file.

    Args:
      error: the exception.
      settings: settings of the command, whose `workdir` gets the file; None if they could not be parsed.
    """
    if isinstance(error, OSError):
        return _describe_system(error, settings)
    return _describe_machine(error) or _describe_defect(error, settings)


def on_one_line(text: str) -> str:
    """Escapes line breaks and other control characters, which file names and values may contain."""
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in text)


def _describe_system(error: OSError, settings: Any) -> str:
    """Describes a full disk, permissions or a missing file by the system's words."""
    # Writing to an open file names no file; it is in the folder that the command writes to.
    folder = getattr(settings, "workdir", None) or getattr(settings, "output", None) or "the system"
    fix = "; free space, then the same command goes on" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.filename or folder}: {error.strerror or ' '.join(str(error).split())}{fix}"


def _describe_machine(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        detail = " ".join(str(error).split())
        return f"not enough memory{f' ({detail})' if detail else ''}; lower the batch size or the sizes of tables"
    if isinstance(error, UnicodeEncodeError):
        shown = ascii(error.object[:80])
        return f"{shown}: the locale cannot write this name or text; set PYTHONUTF8=1 or a UTF-8 locale"
    if isinstance(error, UnicodeDecodeError):
        return f"a text file is not UTF-8 (byte {error.start + 1}: {error.reason}); convert it to UTF-8"
    return _describe_jax(error) if "jax" in sys.modules else None


def _describe_jax(error: BaseException) -> str | None:
    from jax.errors import JaxRuntimeError

    from wukong_jax.sharding.backend import describe_missing_backend

    if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        detail = describe_error(error).rpartition("RESOURCE_EXHAUSTED: ")[2]
        return (
            f"not enough memory on the device ({detail}); lower config.training.batch_size, "
            "config.training.evaluation_batch_size, config.embeddings.width or the rows of tables"
        )
    if isinstance(error, JaxRuntimeError) and "Gloo context initialization failed" in str(error):
        return (
            f"the processes do not reach each other ({describe_error(error)}); on CPUs the name of each host must lead "
            "to an address that the others reach, such as 10.0.0.1 and not 127.0.1.1 (see /etc/hosts)"
        )
    return describe_missing_backend(error)


def _describe_defect(error: BaseException, settings: Any) -> str:
    trace = "".join(traceback.format_exception(error))
    if os.environ.get(SHOW_TRACEBACK) == "1":
        print(trace, file=sys.stderr)
    file = _write_trace(trace, settings)
    where = f"its traceback is in {file}" if file else f"set {SHOW_TRACEBACK}=1 to see its traceback"
    return f"{describe_error(error)}; this is a defect of the program: {where}; please report it"


def _write_trace(trace: str, settings: Any) -> Path | None:
    """Writes the traceback into the run's folder if there is one, else into a temporary file; None if neither works."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    text = f"{now}\n{shlex.join(sys.argv)}\n\n{trace}"
    workdir = Path(getattr(settings, "workdir", None) or "\0")
    try:
        if "\0" not in str(workdir) and workdir.is_dir():
            file = workdir / "error.txt"
            file.write_text(text, encoding="utf-8", errors="backslashreplace")
            return file
    except OSError:
        pass  # a full disk or a folder that may not be written: take a temporary file
    try:
        number, name = tempfile.mkstemp(prefix="wukong-jax-", suffix="-error.txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError:
        return None
    return Path(name)
