"""Keeps what native libraries print about damaged files off the terminal."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def without_error_output() -> Iterator[None]:
    """Closes the error output of this process while a file that may be damaged is read.

    Polars panics on some damaged Parquet files: it raises an exception, but has printed a stack of its own before, past
    Python's `sys.stderr`. The caller reports the exception in one line.
    """
    try:
        kept = os.dup(2)
    except OSError:  # this process has no error output
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
