"""Turns SIGTERM and SIGINT into a flag that the training loop checks between steps."""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """A context that records the first SIGTERM or SIGINT instead of ending the process; a second one ends it.

    On leaving the context without an error, a recorded signal is raised again. Otherwise a script that trains several
    runs in turn would continue after a signal that came after the last step, when the flag is no longer checked.
    """

    def __init__(self, describe: Callable[[str], str] = lambda name: "") -> None:
        """Records nothing yet.

        Args:
          describe: returns what a signal of a name waits for, in a line for stderr; "" prints none.
        """
        self.received: int | None = None
        self._describe = describe
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.received and kind is None:
            signal.raise_signal(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
        self.received = number
        if line := self._describe(signal.Signals(number).name):
            os.write(2, f"{line}\n".encode())  # not by print, which the signal may have interrupted
