"""Prints messages of progress, but not too often."""

import sys
import time

_REPORT_SECONDS = 5.0  # between two messages


class Progress:
    """A function of a line of text that prints it to stderr, unless it printed one just before."""

    def __init__(self) -> None:
        """Starts the time until the first message."""
        self._last = time.monotonic()

    def __call__(self, line: str) -> None:
        """Prints the line if it is time for one."""
        if time.monotonic() - self._last >= _REPORT_SECONDS:
            self._last = time.monotonic()
            print(line, file=sys.stderr, flush=True)
