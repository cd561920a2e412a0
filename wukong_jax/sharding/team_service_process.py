"""Serves JAX's coordination service; `team_service` runs this file. It imports nothing of the package, to start fast.

Arguments: the port, the number of processes, and the seconds after which a silent process is taken for dead.
"""

import sys
import time
from pathlib import Path

_POLL_SECONDS = 0.2
_ESTABLISHED, _TABLES = "01", ("/proc/net/tcp", "/proc/net/tcp6")
_LONGEST_LINGER = 300.0
_LEAVE_SECONDS = 60  # in which all clients must leave after the first


def serve(port: int, processes: int, heartbeat_seconds: int) -> None:
    """Serves until process 0 has left, or is gone, and nobody else is connected."""
    from jaxlib import _jax

    service = _jax.get_distributed_runtime_service(
        f"[::]:{port}", processes, heartbeat_timeout=heartbeat_seconds, shutdown_timeout=_LEAVE_SECONDS
    )
    print("ready", flush=True)
    sys.stdin.read()  # which ends with process 0, or when it closes it
    stop = time.monotonic() + _LONGEST_LINGER
    while _is_connected(port) and time.monotonic() < stop:
        time.sleep(_POLL_SECONDS)
    service.shutdown()


def _is_connected(port: int) -> bool:
    """Whether anyone is connected to a port of this machine, as Linux tells; no where there is no such table."""
    for table in map(Path, _TABLES):
        lines = table.read_text(encoding="utf-8").splitlines()[1:] if table.exists() else []
        for local, _, state in (line.split()[1:4] for line in lines):
            if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:4]))
