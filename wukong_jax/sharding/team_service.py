"""Runs the coordination service of JAX's runtime in a process of its own, started by process 0.

JAX runs the service inside process 0. If that process is killed or stopped, nobody can ask the service any more, and
JAX aborts all others without saying why. Here it outlives process 0 for as long as anyone is connected, so that the
others see who is gone, and end in order.
"""

import select
import subprocess
import sys
from pathlib import Path

from wukong_jax.errors import UserError

_PROGRAM = Path(__file__).with_name("team_service_process.py")


class TeamService:
    """The service's process, held by process 0."""

    def __init__(self, address: str, processes: int, heartbeat_seconds: int, start_seconds: float) -> None:
        """Starts the service and waits until it listens.

        Args:
          address: "HOST:PORT" of the coordinator; it listens to the port on all addresses.
          processes: number of processes that will connect.
          heartbeat_seconds: time after which the runtime takes a silent process for dead.
          start_seconds: time that the start may take.

        Raises:
          UserError: the port is taken, or the process did not start.
        """
        port = address.rpartition(":")[2]
        words = [sys.executable, "-P", str(_PROGRAM), port, str(processes), str(heartbeat_seconds)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        assert self._process.stdout is not None
        answers, _, _ = select.select([self._process.stdout], [], [], start_seconds)
        if not answers or self._process.stdout.readline() != b"ready\n":
            self._process.kill()
            _, said = self._process.communicate()
            reason = said.decode("utf-8", "replace").strip().splitlines()
            raise UserError(
                f"--coordinator = {address!r}: process 0 cannot listen on port {port} "
                f"({reason[-1][:200] if reason else 'no answer'}); choose a free port"
            )

    def stop(self) -> None:
        """Lets the service end when nobody is connected any more, for which this process must end, too."""
        assert self._process.stdin is not None
        self._process.stdin.close()
