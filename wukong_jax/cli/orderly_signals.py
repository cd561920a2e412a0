"""Ends a command in order on SIGINT and SIGTERM, so that its temporary files and folders are removed."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

_AGAIN_SECONDS = 0.1


class OrderlySignals:
    """A context in which SIGTERM raises SystemExit(143) and SIGINT raises KeyboardInterrupt.

    A library may turn these into other exceptions, so `exit_code` tells that there was a signal.

    Python drops an exception that is raised inside a destructor or a callback of the garbage collector, and would print
    its traceback. Here the signal is sent again. A thread other than the main one, and signals that the program handles
    itself, are left alone.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None  # 128 + the number of a received signal
        self._previous: dict[int, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> "OrderlySignals":
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._end)
            if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._end)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._send_again
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = 128 + number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(self.exit_code)

    def _send_again(self, dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is RuntimeError and str(dropped.exc_value) == "Event loop is closed":
            return  # of tensorstore's other reads or writes, after one has failed, which the command reports
        lost = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}.get(dropped.exc_type)
        if lost is None:
            self._hook(dropped)
            return
        timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), lost))
        timer.daemon = True
        timer.start()
