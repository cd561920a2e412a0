"""Emulated cluster: H hosts on one Linux machine, one process with C devices each, over links of a chosen rate.

    with EmulatedCluster(hosts=4, chips=2) as cluster:
        cluster.start([sys.executable, "worker.py"])
        cluster.set_rate(400)                            # Mbit/s, while the workers run; None for unlimited
        before = cluster.read_counters()
        seconds = cluster.call("run", variant="flat", steps=8)
        after = cluster.read_counters()

In a `("host", "chip")` mesh over `jax.devices()`, traffic along `chip` stays inside a process; traffic along `host`
crosses the links. All devices share the machine's cores, so the link rates are not comparable with those of a real
cluster; the share of a step spent on the links is. `dmt/bench/network_namespaces.py` describes the links,
`dmt/bench/cluster_process.py` the workers and the bytes that Gloo sends.

The network is always cleaned up: after an exception, SIGINT (exit 130) and SIGTERM (exit 143) by the driver, after
SIGKILL by a watchdog process that notices the driver's end. If the watchdog was killed too, the next cluster cleans up.
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
    """A worker failed, exited or did not answer in time; the message includes the last lines of its log."""


class _Worker:
    """The process of one emulated host, with its two pipes and its log."""

    def __init__(self, host: int, command: Sequence[str], environment: Mapping[str, str]):
        self.host = host
        # The log has no name in any folder, so it disappears with the driver, however that ends.
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
        """Writes one request; if the worker has exited, `receive` reports it."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._requests, json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Reads the available bytes; returns the message once it is complete, None before.

        Raises:
          WorkerError: the worker has exited.
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
        """Returns the last lines of the log for an error message; empty if the log is empty."""
        size = os.fstat(self.log.fileno()).st_size
        text = os.pread(self.log.fileno(), 1 << 16, max(0, size - (1 << 16))).decode(errors="replace")
        lines = text.splitlines()[-_LOG_TAIL_LINES:]
        return "".join(f"\n  host {self.host} | {line}" for line in lines)

    def close_requests(self) -> None:
        """Tells the worker to exit."""
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1

    def kill(self) -> None:
        """Kills the process and closes its pipes and its log."""
        self.process.kill()
        self.process.wait()
        self.close_requests()
        os.close(self.replies)
        self.log.close()


class EmulatedCluster:
    """H emulated hosts, as a context manager that removes them on exit."""

    def __init__(self, hosts: int, chips: int, mtu: int = 9000):
        """Stores the settings; the cluster is created on entering the context.

        Args:
          hosts: H.
          chips: C, CPU devices of each host's process.
          mtu: largest IP packet on a link, in bytes.

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
        """Creates namespaces and unlimited links; from here on SIGINT and SIGTERM end the driver through `__exit__`.

        Raises:
          UserError: not root, no iproute2, no permission to create namespaces, or hosts or mtu out of range.
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
        """Stops the workers and removes namespaces and links."""
        for number in self._handlers:  # a second Ctrl-C must not interrupt the clean-up
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
        """The address of each host on the emulated network."""
        return list(self._get_network().addresses)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, timeout_seconds: float = 120
    ) -> None:
        """Starts one worker on each host and waits until all are ready.

        Args:
          command: the program and its arguments, the same on each host; it calls `cluster_process.join_cluster` and
            `serve`.
          environment: variables added to those of this process. The device count is appended to its `XLA_FLAGS`.
          timeout_seconds: longest time until all workers are ready.

        Raises:
          UserError: workers are already running.
          WorkerError: a worker exited, or was not ready in time.
        """
        if self._workers:
            raise UserError("emulated cluster: its workers are already running; call stop() before start()")
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
          command: the name of a command that the workers serve.
          timeout_seconds: longest time until all workers have answered.
          **arguments: keyword arguments of the command, the same for each host; JSON values.

        Returns:
          One result per host.

        Raises:
          UserError: no workers are running.
          WorkerError: a worker failed, exited or did not answer in time. All workers are then stopped, since the others
            may be waiting for it in a collective; `start` starts new ones.
        """
        if not self._workers:
            raise UserError(f"emulated cluster: no workers for command {command!r}; call start() first")
        for worker in self._workers:
            worker.send({"command": command, "arguments": arguments})
        return [reply["result"] for reply in self._collect(command, timeout_seconds)]

    def stop(self, grace_seconds: float = _STOP_SECONDS) -> None:
        """Stops the workers, if there are any.

        Args:
          grace_seconds: time to exit by themselves before they are killed.
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
        """Limits the link of every host in both directions. Call it between commands; workers may be running.

        Args:
          mbit: rate of Ethernet frames, 10^6 bits per second; None for unlimited.

        Raises:
          UserError: the rate is not positive.
        """
        self._get_network().set_rate(mbit)

    def read_counters(self) -> list[LinkCounters]:
        """Reads the traffic counters of each link; subtract two readings to get the traffic between them.

        Returns:
          One reading per host.
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
            # None is a handler that Python did not install and cannot restore.
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
