"""Watches the processes of a training from a thread in each, and ends this one when one of them is lost or stuck.

A process that dies, freezes or is cut off leaves the others in a collective operation without a limit of its own. So
every process posts a report of where it is. Process 0's thread judges all reports, so that no other reads many, and
posts its verdict with a beat of its own, which the others watch. A second thread ends this process if the store of the
reports does not answer any more.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wukong_jax.sharding.team_verdict import Judge, Report, name_lost_lead

FAILED = "wukong/told/failed"  # keys under it, by process
_TOLD, _VERDICT, _REPORTS = "wukong/told/", "wukong/told/verdict", "wukong/reports/"
_ROUNDS_IN_LIMIT = 16
_LONGEST_ROUND = 2.0  # seconds
_BUSY_SHARE = 0.02  # of a CPU's time
_BUSY_BYTES = 1 << 20
_COUNTED_BYTES = Path("/proc/self/io")


class TeamWatch:
    """The watching threads of one process."""

    def __init__(
        self, client: Any, index: int, count: int, lead_host: str, limit: float, end: Callable[[str, int], None]
    ) -> None:
        """Starts the threads.

        Args:
          client: client of the runtime's key-value store.
          index: index of this process.
          count: number of processes.
          lead_host: host of process 0.
          limit: seconds without a sign after which a process is taken for lost or stuck.
          end: ends this process with a line and an exit code.
        """
        self._client, self._index, self._count, self._lead_host = client, index, count, lead_host
        self._limit, self._end = limit, end
        self._every = min(_LONGEST_ROUND, limit / _ROUNDS_IN_LIMIT)
        self._stage, self._marks, self._is_busy, self._waits = "the start", 0, True, False
        self._stopped = threading.Event()
        self._answered = time.monotonic()
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._run, self._guard)]
        for thread in self._threads:
            thread.start()

    def mark(self, stage: str, busy: bool) -> None:
        """Notes that this process begins a step or a stage; all processes begin the same ones in the same order.

        Args:
          stage: what it does now.
          busy: whether it has no steps, so that using the CPU or moving bytes counts as going on.
        """
        self._stage, self._is_busy = stage, busy
        self._marks += 1

    def set_waiting(self, waits: bool) -> None:
        """Notes whether this process waits for others."""
        self._waits = waits

    def stop(self) -> None:
        """Stops watching, before the store ends."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        judge = Judge(self._count, self._limit, time.monotonic())
        work, beat, lead_beat, heard = _Work(), 0, 0, time.monotonic()
        while not self._stopped.wait(self._every):
            beat += 1
            moved = work.look(self._is_busy and not self._waits)
            report = Report(beat, self._marks, moved, self._stage, self._waits, socket.gethostname())
            try:
                self._client.key_value_set(f"{_REPORTS}{self._index}", json.dumps(report), allow_overwrite=True)
                if self._index == 0:
                    reports = {int(i): Report(*values) for i, values in self._read(_REPORTS).items()}
                    verdict = [beat, judge.judge(reports, time.monotonic())]
                    self._client.key_value_set(_VERDICT, json.dumps(verdict), allow_overwrite=True)
                told = self._read(_TOLD)
            except Exception:
                if self._stopped.is_set():
                    return
                continue  # the guard counts the seconds
            now = time.monotonic()
            starved, self._answered = now - self._answered > self._limit / 2, now
            newest, line = told.pop("verdict", (0, ""))
            if newest != lead_beat or starved:
                lead_beat, heard = newest, now
            self._obey(told, line if now - heard <= self._limit else self._describe_lead())

    def _obey(self, failed: dict[str, Any], verdict: str) -> None:
        """Ends this process if one has said that it failed, or by process 0's verdict."""
        for index, (name, line, code) in failed.items():
            if index != f"failed/{self._index}":
                self._end(f"{name} ended: {line.removeprefix('error: ')}", code)
        if verdict:
            own = f"process {self._index} of {self._count} "
            self._end(f"{verdict}{_describe_place()}" if verdict.startswith(own) else verdict, 1)

    def _guard(self) -> None:
        """Ends this process when the store has not answered for the limit; counts only while this process runs."""
        silent, before = 0.0, time.monotonic()
        while not self._stopped.wait(self._every):
            now = time.monotonic()
            silent += min(now - before, 2 * self._every)
            before = now
            if now - self._answered <= 2 * self._every:
                silent = 0.0
            if silent > self._limit:
                self._end(self._describe_lead(), 1)

    def _describe_lead(self) -> str:
        return name_lost_lead(self._count, self._lead_host, self._limit)

    def _read(self, folder: str) -> dict[str, Any]:
        found = self._client.key_value_dir_get(folder)
        return {key.removeprefix(folder): json.loads(text) for key, text in found}


class _Work:
    """Counts the rounds in which this process has used the CPU or moved bytes."""

    def __init__(self) -> None:
        self.moved = 0
        self._before = (time.monotonic(), time.process_time(), 0)

    def look(self, counts: bool) -> int:
        """Returns the number of rounds, with the last one if it counts."""
        before, self._before = self._before, (time.monotonic(), time.process_time(), _read_moved_bytes())
        seconds, used, moved = (new - old for new, old in zip(self._before, before, strict=True))
        if counts and (used > _BUSY_SHARE * seconds or moved > _BUSY_BYTES):
            self.moved += 1
        return self.moved


def _read_moved_bytes() -> int:
    if not _COUNTED_BYTES.exists():
        return 0
    fields = dict(line.split(": ") for line in _COUNTED_BYTES.read_text(encoding="utf-8").splitlines())
    return int(fields["rchar"]) + int(fields["wchar"])


def _describe_place() -> str:
    """Names the innermost line of the program that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return f" (in {frame.f_code.co_name}, {frame.f_code.co_filename}:{frame.f_lineno})" if frame else ""
