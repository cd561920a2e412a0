"""Keeps what native libraries print about damaged files off the terminal."""

import contextlib
import os
import time
from collections.abc import Iterator

_LATE_SECONDS = 0.2  # in which the other reads of a failed restore end


@contextlib.contextmanager
def without_error_output() -> Iterator[None]:
    """Closes the error output of this process while files that may be damaged are read.

    Polars panics on some damaged Parquet files: it raises an exception, but has printed a stack of its own before, past
    Python's `sys.stderr`. When one array of a checkpoint cannot be read, threads of tensorstore print that they could
    not report the others. The caller reports the exception in one line.
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
    except BaseException:
        time.sleep(_LATE_SECONDS)
        raise
    finally:
        os.dup2(kept, 2)
        os.close(kept)
