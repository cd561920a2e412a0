"""Watches the other processes of a training from a thread, and ends this one when one of them is lost.

A process that dies, freezes or is cut off leaves the others in a collective operation without a limit of its own. So
every process posts a beat, and reads those of the others, and reads whether one has said that it failed.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

BEAT, FAILED, LEFT, HOSTS = "wukong/beat", "wukong/failed", "wukong/left", "wukong/hosts"
_BEATS_IN_LIMIT = 8
_SLOWEST_BEAT = 5.0  # seconds; the store is in process 0, to which all hosts speak


class TeamWatch:
    """The watching thread of one process."""

    def __init__(
        self, client: Any, index: int, count: int, stall_seconds: float, end: Callable[[str, int, int], None]
    ) -> None:
        """Starts the thread.

        Args:
          client: client of the runtime's key-value store.
          index: index of this process.
          count: number of processes.
          stall_seconds: time after which a process without a beat is taken for lost.
          end: ends this process with a line, an exit code, and how many processes cannot end by themselves.
        """
        self._client, self._index, self._count, self._end = client, index, count, end
        self._limit = stall_seconds
        self._every = min(_SLOWEST_BEAT, stall_seconds / _BEATS_IN_LIMIT)
        self._stopped = threading.Event()
        self._client.key_value_set(f"{HOSTS}/{index}", socket.gethostname(), allow_overwrite=True)
        self._thread = threading.Thread(target=self._run, name="team watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops watching, before the store ends."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        seen: dict[int, tuple[str, float]] = {i: ("", began) for i in range(self._count)}
        beat, answered = 0, began
        while not self._stopped.wait(self._every):
            beat += 1
            try:
                self._client.key_value_set(f"{BEAT}/{self._index}", str(beat), allow_overwrite=True)
                beats, failed, left = (self._read(name) for name in (BEAT, FAILED, LEFT))
            except Exception:
                if self._stopped.is_set():
                    return
                if time.monotonic() - answered > self._limit:
                    self._end(f"process 0 has not answered for {self._limit:g} s; run the same command to go on", 1, 1)
                continue
            woke, answered = time.monotonic() - answered, time.monotonic()
            if woke > self._limit:  # this process itself was stopped or starved; it knows nothing of the others
                seen = {i: (text, answered) for i, (text, _) in seen.items()}
            self._check_failed(failed)
            self._check_beats(seen, beats, left)

    def _read(self, name: str) -> dict[int, str]:
        return {int(key.rpartition("/")[2]): text for key, text in self._client.key_value_dir_get(f"{name}/")}

    def _check_failed(self, failed: dict[int, str]) -> None:
        for index, text in failed.items():
            if index != self._index:
                name, line, code = json.loads(text)
                self._end(f"{name} ended: {line.removeprefix('error: ')}", code, 0)

    def _check_beats(self, seen: dict[int, tuple[str, float]], beats: dict[int, str], left: dict[int, str]) -> None:
        now = time.monotonic()
        for index, (text, since) in seen.items():
            if beats.get(index, "") != text:
                seen[index] = beats[index], now
            elif now - since > self._limit and index not in left and index != self._index:
                host = self._read(HOSTS).get(index, "an unknown host")
                self._end(
                    f"process {index} of {self._count} on {host} has not answered for {self._limit:g} s (killed, "
                    "stopped or cut off); run the same command to go on",
                    1,
                    1,
                )
