"""Lets the processes of one training talk: who leads, what the leader decided, and waits that end when one has failed.

The engine is JAX's multi-controller runtime: every process runs the same program on its own devices. What the devices
compute together is agreed by construction; what a host decides (to stop, which checkpoint is the newest) is decided by
process 0, the *lead*, and told to all. Only this module and those that it is made of (`team_connection`, `team_watch`)
use the runtime's key-value store, which JAX has no public name for. A process alone is a team of one, and every
function here is then free.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from wukong_jax.errors import UserError
from wukong_jax.sharding.team_connection import TeamPlace, connect, disconnect
from wukong_jax.sharding.team_service import TeamService
from wukong_jax.sharding.team_watch import FAILED, TeamWatch

T = TypeVar("T")

_SLICE_MS = 500
_POST_SECONDS = 5.0
# Words of errors that say that another process is gone, rather than what happened here.
_LOST = re.compile(r"gloo|connection (closed|reset|refused)|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|coordination", re.I)


class Team:
    """The processes that train together. Every process must call the same methods in the same order."""

    def __init__(
        self, index: int = 0, count: int = 1, client: Any = None, service: TeamService | None = None, limit: float = 0.0
    ) -> None:
        """Joins the others, and starts the watch over them; by default a process is alone.

        Args:
          index: index of this process.
          count: number of processes.
          client: client of the runtime's key-value store.
          service: the store's service, in process 0.
          limit: seconds without a sign after which a process is taken for lost or stuck.
        """
        self.index, self.count = index, count
        self.stage = "the start"  # as `mark` was last told
        self.ends_together = False  # whether all are known to end now, so that leaving may wait for them
        self._client, self._service, self._calls, self._limit = client, service, 0, limit
        self._ending = threading.Lock()
        self._watch: TeamWatch | None = None
        if client is not None:
            host = self.tell("host", socket.gethostname())
            self._watch = TeamWatch(client, index, count, host, limit, self._end_watched)

    @property
    def is_lead(self) -> bool:
        """Whether this process writes the run's files and decides."""
        return self.index == 0

    @property
    def name(self) -> str:
        """This process in messages."""
        return f"process {self.index} of {self.count} on {socket.gethostname()}"

    def mark(self, stage: str, busy: bool = False) -> None:
        """Notes that this process begins a step or a stage, so that the others know whom they wait for.

        Args:
          stage: what it does now, such as "training step 12".
          busy: whether the stage has no steps, so that using the CPU or moving bytes counts as going on.
        """
        self.stage = stage
        if self._watch is not None:
            self._watch.mark(stage, busy)

    def tell(self, name: str, value: Any) -> Any:
        """Returns the lead's value in every process.

        Args:
          name: what it is; the same in every process.
          value: a JSON value; only the lead's counts.
        """
        if self.count == 1:
            return value
        return self._tell(self._key(name), value)

    def gather(self, name: str, value: Any) -> list[Any]:
        """Returns the JSON values of all processes, by process."""
        if self.count == 1:
            return [value]
        key = self._key(name)
        if not self.is_lead:
            self._client.key_value_set(f"{key}/{self.index}", json.dumps(value))
            return self._tell(key, None)
        others = [json.loads(self._read(f"{key}/{i}")) for i in range(1, self.count)]
        return self._tell(key, [value, *others])

    def wait(self, name: str) -> None:
        """Waits until every process is here, as long as all of them go on.

        Args:
          name: the place; the same in every process.
        """
        self.gather(name, None)

    def meet(self, key: str, timeout_ms: int) -> None:
        """Waits at a barrier that a library names, perhaps in a thread of its own.

        Args:
          key: name of the barrier, used once.
          timeout_ms: the library's limit.
        """
        watch = self._watch if threading.current_thread() is threading.main_thread() else None
        if watch is not None:
            watch.set_waiting(True)
        self._client.wait_at_barrier(key, timeout_ms)
        if watch is not None:
            watch.set_waiting(False)

    def lead_first(self, name: str, act: Callable[[], T]) -> T:
        """Acts in the lead, and when it is done in the others, which then find what it has made."""
        if not self.is_lead:
            self.wait(name)
            return act()
        made = act()
        self.wait(name)
        return made

    def check_equal(self, name: str, value: str, fix: str) -> None:
        """Checks that a text is the same in every process.

        Raises:
          UserError: it is not.
        """
        found = self.gather(name, value)
        other = next((i for i, text in enumerate(found) if text != found[0]), None)
        if other is not None:
            raise UserError(f"{name} = {found[other]!r} in process {other}: {found[0]!r} in process 0; {fix}")

    def await_cause(self, error: BaseException) -> None:
        """Waits for the watch to find which process is gone, if that is all that an error says; see `fail`."""
        if self.count > 1 and _LOST.search(str(error)) and "RESOURCE_EXHAUSTED" not in str(error):
            time.sleep(2 * self._limit)  # the watch ends this process before

    def fail(self, line: str, code: int) -> NoReturn:
        """Ends this process and tells the others why; JAX's own end would wait for them for minutes.

        Args:
          line: the line to print.
          code: exit code.
        """
        self._end(line, code, posts=True)

    def leave(self) -> None:
        """Ends the talk after the same work in all processes; waits until all have done it."""
        if self._client is None:
            return
        self.wait("leave")
        if self._watch is not None:
            self._watch.stop()
        self._client, self.count = None, 1
        disconnect(self._service)

    def _tell(self, key: str, value: Any) -> Any:
        if not self.is_lead:
            return json.loads(self._read(f"{key}/told"))
        self._client.key_value_set(f"{key}/told", json.dumps(value))
        return value

    def _read(self, key: str) -> str:
        """Waits for a key; in slices, because Python sees a signal only between calls."""
        if self._watch is not None:
            self._watch.set_waiting(True)
        try:
            while True:
                try:
                    return self._client.blocking_key_value_get(key, _SLICE_MS)
                except Exception as error:
                    if "DEADLINE_EXCEEDED" not in str(error):
                        raise
        finally:
            if self._watch is not None:
                self._watch.set_waiting(False)

    def _key(self, name: str) -> str:
        self._calls += 1
        return f"wukong/talk/{self._calls}/{name}"

    def _end_watched(self, line: str, code: int) -> NoReturn:
        self._end(f"error: {line}", code, posts=False)

    def _end(self, line: str, code: int, posts: bool) -> NoReturn:
        if not self._ending.acquire(blocking=False):
            while True:
                time.sleep(1.0)  # another thread is ending the process
        with contextlib.suppress(OSError, ValueError):  # the log may lie on the disk that is full
            print(line, file=sys.stderr, flush=True)
            sys.stdout.flush()
        if posts:
            poster = threading.Thread(target=self._post, args=(line, code), daemon=True)
            poster.start()
            poster.join(_POST_SECONDS)
        os._exit(code)

    def _post(self, line: str, code: int) -> None:
        with contextlib.suppress(Exception):  # the store is gone, and with it all who would read it
            self._client.key_value_set(f"{FAILED}/{self.index}", json.dumps([self.name, line, code]))


_team = Team()


def find_team() -> Team:
    """Returns the processes that this one trains with; only itself unless `start_team` was called."""
    return _team


def start_team(place: TeamPlace | None, local_devices: int | None, limit: float) -> Team:
    """Starts JAX's runtime over several processes; call it before JAX is used.

    Args:
      place: this process's place; None: one process.
      local_devices: devices that this process has; on CPU it is given as many. None: what JAX finds.
      limit: seconds without a sign after which a process is taken for lost or stuck.

    Returns:
      The team.

    Raises:
      UserError: the coordinator does not answer, or JAX finds another number of devices.
    """
    global _team
    import jax

    if local_devices is not None:
        jax.config.update("jax_num_cpu_devices", local_devices)
    if place is not None and place.processes > 1:
        _keep_stdout_for_python()
        _team = Team(place.process, place.processes, *connect(place, limit), limit)
    if local_devices is not None and len(jax.local_devices()) != local_devices:
        raise UserError(
            f"--local_devices = {local_devices}: this process has {len(jax.local_devices())} "
            f"{jax.local_devices()[0].platform} devices; leave it out, or show JAX as many"
        )
    counts = _team.gather("local devices", len(jax.local_devices()))
    if len(set(counts)) > 1:
        listed = ", ".join(f"{count} in process {i}" for i, count in enumerate(counts[:8]))
        raise UserError(
            f"--local_devices: the processes have different numbers of devices ({listed}); give all as many"
        )
    return _team


def _keep_stdout_for_python() -> None:
    """Sends what native libraries print (Gloo tells of each connection) to stderr; results are read from stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(kept, "w", encoding="utf-8", buffering=1)
