"""An emulated cluster: H hosts on one Linux machine, joined by links of a chosen rate, one process of C devices each.

    with EmulatedCluster(hosts=4, chips=2) as cluster:
        cluster.start([sys.executable, "worker.py"])
        cluster.set_rate(400)                            # Mbit/s, while the workers live; None for unlimited
        before = cluster.read_counters()
        seconds = cluster.call("run", variant="flat", steps=8)
        after = cluster.read_counters()

The `chip` axis of a `("host", "chip")` mesh over `jax.devices()` stays inside a process, and what it moves never
reaches a link; the `host` axis crosses the links. What this measures is time over emulated links: the devices share the
machine's cores, so the share of a step that links take compares with a real cluster, the rate does not.
`dmt/network_namespaces.py` says how the links are made, `dmt/cluster_process.py` what a worker does and how Gloo moves
bytes.

Nothing stays behind: not after an exception, SIGINT (exit 130) or SIGTERM (exit 143), and not after SIGKILL, since a
watchdog process sees the driver's end and cleans up; where that was killed as well, the next cluster removes it all.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import IO, Any

from dmt.bench import cluster_process
from dmt.bench.network_namespaces import HostNetwork, LinkCounters
from wukong_jax.errors import UserError

_FIRST_PORT = 47000
_LOG_TAIL_LINES = 20
_STOP_SECONDS = 5.0


class WorkerError(RuntimeError):
    """A worker failed, ended or did not answer in time; the message holds the end of its log."""


class _Worker:
    """One emulated host's process, its two pipes and its log."""

    def __init__(self, host: int, command: Sequence[str], environment: Mapping[str, str]):
        self.host = host
        # Without a name in any folder, the log goes when the driver goes, however it ends.
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        commands_end, self._requests = os.pipe()
        self.replies, results_end = os.pipe()
        channel = {cluster_process.COMMANDS: str(commands_end), cluster_process.RESULTS: str(results_end)}
        self.process = subprocess.Popen(
            command,
            env={**environment, **channel},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=(commands_end, results_end),
        )
        os.close(commands_end)
        os.close(results_end)
        self._unread = b""

    def send(self, message: dict[str, Any]) -> None:
        """Writes one request; a worker that has ended is noticed when its reply is read."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Reads what has come; the message if it is whole.

        Raises:
          WorkerError: the worker has ended.
        """
        chunk = os.read(self.replies, 1 << 16)
        if not chunk:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=1)
            raise WorkerError(f"host {self.host}: its process ended (exit {self.process.poll()}){self.read_tail()}")
        self._unread += chunk
        if not self._unread.endswith(b"\n"):
            return None
        line, self._unread = self._unread, b""
        return json.loads(line)

    def read_tail(self) -> str:
        """The log's last lines, for an error message; empty where there is no log."""
        size = os.fstat(self.log.fileno()).st_size
        text = os.pread(self.log.fileno(), 1 << 16, max(0, size - (1 << 16))).decode(errors="replace")
        lines = text.splitlines()[-_LOG_TAIL_LINES:]
        return "".join(f"\n  host {self.host} | {line}" for line in lines)

    def close_requests(self) -> None:
        """Tells the worker to end."""
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1

    def kill(self) -> None:
        """Ends the process now and frees what belongs to it."""
        self.process.kill()
        self.process.wait()
        self.close_requests()
        os.close(self.replies)
        self.log.close()


class EmulatedCluster:
    """H emulated hosts; a context manager, whose end removes all of them."""

    def __init__(self, hosts: int, chips: int, mtu: int = 9000):
        """Describes the cluster; entering the context makes it.

        Args:
          hosts: H.
          chips: C, CPU devices of each host's process.
          mtu: largest IP packet of a link, bytes.

        Raises:
          UserError: chips below 1.
        """
        if chips < 1:
            raise UserError(f"emulated cluster: chips={chips}; must be 1 or more")
        self.hosts = hosts
        self.chips = chips
        self._mtu = mtu
        self._network: HostNetwork | None = None
        self._workers: list[_Worker] = []
        self._starts = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "EmulatedCluster":
        """Makes namespaces and links, unlimited; SIGINT and SIGTERM now end the driver through `__exit__`.

        Raises:
          UserError: no root, no iproute2, no right to make namespaces; hosts or mtu out of range.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, _exit_on_signal)
        try:
            self._network = HostNetwork(self.hosts, self._mtu)
        except BaseException:
            self._restore_handlers()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers and removes namespaces and links."""
        for number in self._handlers:  # a second Ctrl-C must not leave half of it
            signal.signal(number, signal.SIG_IGN)
        try:
            self.stop(_STOP_SECONDS if kind is None else 0)
        finally:
            network, self._network = self._network, None
            if network is not None:
                network.remove()
            self._restore_handlers()

    @property
    def addresses(self) -> list[str]:
        """Each host's address on the emulated network."""
        return list(self._get_network().addresses)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, timeout_seconds: float = 120
    ) -> None:
        """Starts one worker on each host, and waits until all serve.

        Args:
          command: the program and its arguments, the same on each host; it calls `cluster_process.join_cluster` and
            `serve`.
          environment: variables beside this process's own. `XLA_FLAGS` given here comes before the device count.
          timeout_seconds: how long the start may take.

        Raises:
          UserError: workers already run.
          WorkerError: a worker ended, or did not serve in time.
        """
        if self._workers:
            raise UserError("emulated cluster: its workers already run; stop() them before start()")
        network = self._get_network()
        port = _FIRST_PORT + self._starts
        self._starts += 1
        for host, namespace in enumerate(network.names):
            settings = self._build_environment(host, f"{network.addresses[0]}:{port}", environment or {})
            self._workers.append(_Worker(host, ["ip", "netns", "exec", namespace, *command], settings))
        self._collect("start", timeout_seconds)

    def call(self, command: str, /, *, timeout_seconds: float = 600, **arguments: Any) -> list[Any]:
        """Runs one command on all workers at once.

        Args:
          command: a name that the workers serve.
          timeout_seconds: how long all of them may take.
          **arguments: the command's keyword arguments, the same for each host; what JSON can hold.

        Returns:
          One result a host.

        Raises:
          UserError: no workers run.
          WorkerError: a worker failed, ended or did not answer in time. The workers are then stopped, since the others
            may wait for the failed one in a collective; `start` makes new ones.
        """
        if not self._workers:
            raise UserError(f"emulated cluster: no workers for command {command!r}; call start() first")
        for worker in self._workers:
            worker.send({"command": command, "arguments": arguments})
        return [reply["result"] for reply in self._collect(command, timeout_seconds)]

    def stop(self, grace_seconds: float = _STOP_SECONDS) -> None:
        """Ends the workers; without any it does nothing.

        Args:
          grace_seconds: how long they may take to end by themselves, before they are killed.
        """
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.close_requests()
        deadline = time.monotonic() + grace_seconds
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        for worker in workers:
            worker.kill()

    def set_rate(self, mbit: float | None) -> None:
        """Limits every host's link, both ways, while the workers live. Call it between commands.

        Args:
          mbit: 10^6 bits a second of Ethernet frames; None for unlimited.

        Raises:
          UserError: a rate that is not positive.
        """
        self._get_network().set_rate(mbit)

    def read_counters(self) -> list[LinkCounters]:
        """Reads what each host's link has carried; subtract two readings for what lay between them.

        Returns:
          One a host.
        """
        return self._get_network().read_counters()

    def _get_network(self) -> HostNetwork:
        if self._network is None:
            raise UserError("emulated cluster: not made yet; use it inside `with EmulatedCluster(...) as cluster:`")
        return self._network

    def _build_environment(self, host: int, coordinator: str, given: Mapping[str, str]) -> dict[str, str]:
        environment = {**os.environ, **given}
        flags = [flag for flag in environment.get("XLA_FLAGS", "").split() if "force_host_platform" not in flag]
        return {
            **environment,
            "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={self.chips}"]),
            "JAX_PLATFORMS": "cpu",
            cluster_process.HOST: str(host),
            cluster_process.HOSTS: str(self.hosts),
            cluster_process.CHIPS: str(self.chips),
            cluster_process.COORDINATOR: coordinator,
        }

    def _collect(self, command: str, timeout_seconds: float) -> list[dict[str, Any]]:
        try:
            return _collect_replies(self._workers, command, timeout_seconds)
        except BaseException:
            self.stop(grace_seconds=0)
            raise

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            # None: a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}


def _collect_replies(workers: Sequence[_Worker], command: str, timeout_seconds: float) -> list[dict[str, Any]]:
    waiting = {worker.replies: worker for worker in workers}
    replies: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + timeout_seconds
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            silent = [worker.host for worker in waiting.values()]
            tails = "".join(worker.read_tail() for worker in waiting.values())
            raise WorkerError(f"hosts {silent} did not answer {command!r} within {timeout_seconds:g} s{tails}")
        for descriptor in ready:
            worker = waiting[descriptor]
            reply = worker.receive()
            if reply is None:
                continue
            if "error" in reply:
                trace = "".join(f"\n  host {worker.host} | {line}" for line in reply["traceback"].splitlines())
                raise WorkerError(
                    f"host {worker.host}: {command!r} failed: {reply['error']}{trace}{worker.read_tail()}"
                )
            replies[worker.host] = reply
            del waiting[descriptor]
    return [replies[worker.host] for worker in workers]


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
