"""Connects a process to the others over JAX's coordination service, before JAX is used.

`jax.distributed.initialize` does nearly the same. It serves from process 0, which takes all others with it when it
dies, and aborts a process without a reason when the service or another process does not come.
"""

import dataclasses
import os
import socket
import sys
import threading
import time
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.sharding.team_service import TeamService

_SLOWER = 60  # seconds that JAX's own limits come after ours
_PROBE_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class TeamPlace:
    """The place of this process among those that train together, as flags or a cluster's variables give it."""

    coordinator: str  # "HOST:PORT", where process 0 listens
    processes: int
    process: int
    gpu_ids: tuple[int, ...] | None = None  # GPUs of this process; None: all that it sees


def connect(place: TeamPlace, limit: float) -> tuple[Any, TeamService | None]:
    """Connects to the other processes.

    Args:
      place: this process's place.
      limit: seconds that meeting the others may take.

    Returns:
      The client of the service, and in process 0 the service.

    Raises:
      UserError: the service cannot listen, or does not answer. If another process does not come, this one is ended with
        such a line, because the wait for it cannot be interrupted.
    """
    import jax
    from jax._src import distributed, xla_bridge
    from jax._src.lib import _jax

    if xla_bridge.backends_are_initialized():
        raise UserError("--coordinator: JAX is in use already; start the processes before anything uses it")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if place.gpu_ids:
        listed = ",".join(map(str, place.gpu_ids))
        jax.config.update("jax_cuda_visible_devices", listed)
        jax.config.update("jax_rocm_visible_devices", listed)
    heartbeat, began = int(2 * limit) + _SLOWER, time.monotonic()
    service = TeamService(place.coordinator, place.processes, heartbeat, limit) if place.process == 0 else None
    if service is None:
        _await_service(place, limit)
    state = distributed.global_state
    state.coordinator_address, state.process_id, state.num_processes = place.coordinator, place.process, place.processes
    partition = os.environ.get("JAX_PARTITION_INDEX")
    state.partition_index = None if partition is None else int(partition)
    state.client = _jax.get_distributed_runtime_client(
        place.coordinator,
        place.process,
        init_timeout=int(limit) + _SLOWER,
        heartbeat_timeout=heartbeat,
        shutdown_on_destruction=False,
        use_compression=True,
    )
    ended = threading.Timer(max(0.0, limit - (time.monotonic() - began)), _end_alone, (place, limit))
    ended.daemon = True
    ended.start()
    state.client.connect()
    ended.cancel()
    return state.client, service


def disconnect(service: TeamService | None) -> None:
    """Leaves the service, after all processes have done the same work; process 0 ends it."""
    from jax._src import distributed

    client: Any = distributed.global_state.client
    distributed.global_state.client = None
    client.shutdown()
    if service is not None:
        service.stop()


def _await_service(place: TeamPlace, limit: float) -> None:
    """Waits until the service listens; JAX's client would abort the process if it never did."""
    host, _, port = place.coordinator.rpartition(":")
    stop, reason = time.monotonic() + limit, "no answer"
    while time.monotonic() < stop:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=limit).close()
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(_PROBE_SECONDS)
        else:
            return
    raise UserError(
        f"--coordinator = {place.coordinator!r}: process {place.process} of {place.processes} on "
        f"{socket.gethostname()} does not reach process 0 there within {limit:g} s ({reason}); start process 0, and "
        "check that its host's name and port can be reached"
    )


def _end_alone(place: TeamPlace, limit: float) -> None:
    print(
        f"error: --coordinator = {place.coordinator!r}: not all {place.processes} processes have come there within "
        f"{limit:g} s, as process {place.process} on {socket.gethostname()} saw; start all of them",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
