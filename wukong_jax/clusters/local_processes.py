"""Starts several processes of one command on this machine, and ends them together.

Each runs in a session of its own, so that a Ctrl-C of the terminal reaches it once, through the launcher. If the
launcher dies, the system ends them.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Any

_SET_PARENT_DEATH_SIGNAL = 1  # from Linux's prctl.h
_POLL_SECONDS = 0.05
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def find_free_port() -> int:
    """Returns a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalProcesses:
    """The started processes; a context that leaves none behind."""

    def __init__(
        self, commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]], grace_seconds: float
    ) -> None:
        """Sets up the processes; starts none.

        Args:
          commands: command line of each process.
          environments: environment of each.
          grace_seconds: time in which the others may end by themselves after one has ended badly.
        """
        self._commands, self._environments, self._grace = commands, environments, grace_seconds
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        self._previous: dict[int, Any] = {}
        self._printing = threading.Lock()

    def __enter__(self) -> "LocalProcesses":
        for number in _PASSED_ON:
            self._previous[number] = signal.signal(number, self._pass_on)
        try:
            for index, (command, environment) in enumerate(zip(self._commands, self._environments, strict=True)):
                self._start(index, command, environment)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            if process.returncode is None:
                _end_session(process)
        for thread in self._threads:
            thread.join(timeout=1.0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def wait(self) -> int:
        """Waits for all processes; when one ends badly, the others get some time, then they are killed.

        Returns:
          0, or the exit code of the process that ended badly first (128 + the number of a signal that killed it).
        """
        first, since = 0, 0.0
        running = set(range(len(self._processes)))
        while running:
            for index in sorted(running):
                if not _has_ended(self._processes[index]):
                    continue
                code = _end_session(self._processes[index])
                running.discard(index)
                if code:
                    self._say(f"process {index} ended with {_describe(code)}")
                    if not first:
                        first, since = code if code > 0 else 128 - code, time.monotonic()
            if first and running and time.monotonic() - since > self._grace:
                listed = ", ".join(map(str, sorted(running)))
                self._say(f"killing process {listed}: still running {self._grace:g} s after the first end")
                for index in running:
                    os.killpg(self._processes[index].pid, signal.SIGKILL)  # collected in the next round
                since = time.monotonic()
            time.sleep(_POLL_SECONDS)
        for thread in self._threads:
            thread.join(timeout=5.0)
        return first

    def _start(self, index: int, command: Sequence[str], environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform.startswith("linux") else None,
        )
        self._processes.append(process)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            thread = threading.Thread(target=self._copy, args=(index, source, target), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _copy(self, index: int, source: IO[bytes], target: IO[str]) -> None:
        for line in _lines(source):
            with self._printing:
                print(f"[{index}] {line}", file=target, flush=True)

    def _say(self, text: str) -> None:
        with self._printing:
            print(f"launch_local: {text}", file=sys.stderr, flush=True)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for process in self._processes:
            if process.returncode is None:
                os.kill(process.pid, number)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended; it is not collected yet, so that no other process can get its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_session(process: subprocess.Popen[bytes]) -> int:
    """Kills a process and all that it has started, and returns its exit code."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _lines(source: IO[bytes]) -> Iterator[str]:
    for line in source:
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _describe(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"{signal.Signals(-code).name}"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
