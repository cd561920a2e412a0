"""Lets the processes of one training talk: who leads, what the leader decided, and waits that end when one has failed.

The engine is JAX's multi-controller runtime: every process runs the same program on its own devices. What the devices
compute together is agreed by construction; what a host decides (to stop, which checkpoint is the newest) is decided by
process 0, the *lead*, and told to all. This module is the only user of the runtime's key-value store, which JAX has no
public name for. A process alone is a team of one, and every function here is then free.
"""

import dataclasses
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
from wukong_jax.sharding.team_watch import FAILED, LEFT, TeamWatch

T = TypeVar("T")

_FOREVER_MS = 30 * 24 * 3600 * 1000  # the watch ends a wait for a process that is gone, however long others take
_LINGER_SECONDS = 5.0  # the lead serves the store, so that it stays until the others have read why it failed
_STARTED_ONLY_TO_END = 300  # seconds; JAX's own limits, which only count where the watch has failed
# Words of errors that say that another process is gone, rather than what happened here.
_LOST = re.compile(r"gloo|connection (closed|reset|refused)|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|coordination", re.I)


@dataclasses.dataclass(frozen=True)
class TeamPlace:
    """The place of this process among those that train together, as flags or a cluster's variables give it."""

    coordinator: str  # "HOST:PORT", where process 0 listens
    processes: int
    process: int
    gpu_ids: tuple[int, ...] | None = None  # GPUs of this process; None: all that it sees


class Team:
    """The processes that train together. Every process must call the same methods in the same order."""

    def __init__(self, index: int = 0, count: int = 1, client: Any = None, stall_seconds: float = 0.0) -> None:
        """Joins the others, whose watch starts here; by default a process is alone."""
        self.index, self.count = index, count
        self.ends_together = False  # whether all are known to end now, so that leaving may wait for them
        self._client, self._calls = client, 0
        self._stall_seconds = stall_seconds
        self._ending = threading.Lock()
        self._watch = TeamWatch(client, index, count, stall_seconds, self._end_watched) if client else None

    @property
    def is_lead(self) -> bool:
        """Whether this process writes the run's files and decides."""
        return self.index == 0

    @property
    def name(self) -> str:
        """This process in messages."""
        return f"process {self.index} of {self.count} on {socket.gethostname()}"

    def tell(self, name: str, value: Any) -> Any:
        """Returns the lead's value in every process.

        Args:
          name: what it is; the same in every process.
          value: a JSON value; only the lead's counts.
        """
        if self.count == 1:
            return value
        key = self._key(name)
        if self.is_lead:
            self._client.key_value_set(key, json.dumps(value))
            return value
        return json.loads(self._client.blocking_key_value_get(key, _FOREVER_MS))

    def gather(self, name: str, value: Any) -> list[Any]:
        """Returns the JSON values of all processes, by process."""
        if self.count == 1:
            return [value]
        key = self._key(name)
        self._client.key_value_set(f"{key}/{self.index}", json.dumps(value))
        texts = [self._client.blocking_key_value_get(f"{key}/{i}", _FOREVER_MS) for i in range(self.count)]
        return [json.loads(text) for text in texts]

    def wait(self, name: str, seconds: float | None = None) -> None:
        """Waits until every process is here.

        Args:
          name: the place; the same in every process.
          seconds: limit; None: as long as all processes answer.

        Raises:
          UserError: the time is over.
        """
        if self.count == 1:
            return
        limit = _FOREVER_MS if seconds is None else int(1000 * seconds)
        try:
            self._client.wait_at_barrier(self._key(name), limit)
        except Exception as error:
            if seconds is None:
                raise
            raise UserError(f"{self.name}: not all processes reached {name!r} within {seconds:g} s") from error

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
            time.sleep(2 * self._stall_seconds)  # the watch ends this process before

    def fail(self, line: str, code: int) -> NoReturn:
        """Ends this process and tells the others why; JAX's own end would wait for them for minutes.

        Args:
          line: the line to print.
          code: exit code.
        """
        self._end(line, code, post=line)

    def leave(self) -> None:
        """Ends the talk after the same work in all processes; waits until all have done it."""
        if self._client is None:
            return
        import jax

        self.wait("leave")
        if self._watch is not None:
            self._watch.stop()
        self._client, self.count = None, 1
        jax.distributed.shutdown()

    def _key(self, name: str) -> str:
        self._calls += 1
        return f"wukong/{self._calls}/{name}"

    def _end_watched(self, line: str, code: int, lost: int) -> NoReturn:
        self._end(f"error: {line}", code, post=None, lost=lost)

    def _end(self, line: str, code: int, post: str | None, lost: int = 0) -> NoReturn:
        if not self._ending.acquire(blocking=False):
            while True:
                time.sleep(1.0)  # another thread is ending the process
        print(line, file=sys.stderr, flush=True)
        sys.stdout.flush()
        try:
            if post is not None:
                self._client.key_value_set(f"{FAILED}/{self.index}", json.dumps([self.name, post, code]))
            self._client.key_value_set(f"{LEFT}/{self.index}", "")
            stop = time.monotonic() + _LINGER_SECONDS
            while self.is_lead and time.monotonic() < stop:
                if len(self._client.key_value_dir_get(f"{LEFT}/")) >= self.count - lost:
                    break
                time.sleep(0.1)
        except Exception:  # the store is gone, and with it the lead: whoever reads it has ended
            pass
        os._exit(code)


_team = Team()


def find_team() -> Team:
    """Returns the processes that this one trains with; only itself unless `start_team` was called."""
    return _team


def start_team(place: TeamPlace | None, local_devices: int | None, stall_seconds: float) -> Team:
    """Starts JAX's runtime over several processes; call it before JAX is used.

    Args:
      place: this process's place; None: one process.
      local_devices: devices that this process has; on CPU it is given as many. None: what JAX finds.
      stall_seconds: time after which a process that does not answer is taken for lost.

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
        _connect(place, stall_seconds)
        from jax._src import distributed

        _team = Team(place.process, place.processes, distributed.global_state.client, stall_seconds)
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


def _connect(place: TeamPlace, stall_seconds: float) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself, so that a stop before the first step went unheard.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=place.coordinator,
            num_processes=place.processes,
            process_id=place.process,
            local_device_ids=place.gpu_ids,
            cluster_detection_method="deactivate",
            initialization_timeout=max(10, int(stall_seconds)),
            heartbeat_timeout_seconds=max(10, int(2 * stall_seconds)),
            shutdown_timeout_seconds=_STARTED_ONLY_TO_END,
        )
    except Exception as error:
        raise UserError(
            f"--coordinator = {place.coordinator!r}: process {place.process} of {place.processes} did not meet the "
            f"others there within {max(10, int(stall_seconds))} s; start all processes, and check that the port of "
            "process 0's host is free and reachable"
        ) from error
