"""Network of emulated hosts: one namespace per host, each with a rate-limited link to a switch.

                     switch's namespace: bridge
        port0 | tbf      port1 | tbf      port2 | tbf          limits the receiving rate
              |                |                |
         eth0 | tbf       eth0 | tbf       eth0 | tbf          limits the sending rate
          host0's           host1's          host2's namespace

The bridge is in a namespace too. So the machine's network interfaces stay unchanged, its firewall rules do not apply,
and two clusters can use the same addresses without conflict.

Reasons for the settings, with the throughput of one TCP stream on a shared machine of 2 cores:

* Frames of 9,000 bytes, as in the networks of most clusters: goodput is 99 % of the rate that `tbf` enforces (it counts
  Ethernet frames); with 1,500 bytes it is 95 %.
* Segmentation offload stays on. Without it one core sends only 0.2 to 1.3 Gbit/s, too slow for "unlimited". `tbf`
  splits packets larger than its burst and counts the headers of all frames of an unsplit packet, so the rate is right.
  The interface counters count one header per unsplit packet: up to 0.7 % fewer bytes than on a real wire.
* A queue far longer than the messages of any step, and a late retransmission timeout, since several hosts may send to
  one host at once. A dropped packet, or a delay that TCP mistakes for one, would cost 200 ms, which does not happen in
  a lossless network.
* Few bytes of one connection in a queue (`tcp_limit_output_bytes`), so that connections take turns, as they do on a
  network card.
* Congestion control is reno, the only one that every kernel has and lets a namespace choose; without drops it only
  opens its window. There is no slow start after a pause between steps, and nothing is remembered from earlier
  connections, so the cost of a step does not depend on what ran before.

Measured goodput of one stream: 99 % of the rate at 50 to 400 Mbit/s, 98 % at 1 Gbit/s, 96 % at 4 Gbit/s, 80 % at
10 Gbit/s (the cores' limit), 20 Gbit/s and more when unlimited. Ring collectives reach the same. An all-to-all takes
1.05 times as long as its bytes need at 1 Gbit/s, and 1.2 to 1.4 times at 50 to 100 Mbit/s: at times several hosts send
to one receiver, whose link has a queue while another link is idle.
"""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass

from dmt.bench import namespace_cleanup
from wukong_jax.errors import UserError

MAX_HOSTS = 250  # addresses of one /24 network
_MIN_MTU, _MAX_MTU = 1280, 65535
_ETHERNET_HEADER = 14
_BURST_SECONDS = 1e-3  # longest delay of a timer (on a busy core) that a burst compensates
_QUEUE_BYTES = 256 * 2**20
_MIN_RETRANSMISSION_SECONDS = 5  # longer than one step's messages can delay a packet on the slowest link
_CLUSTER_NUMBERS = itertools.count()

_KERNEL_SETTINGS = {
    "net/ipv4/tcp_congestion_control": "reno",
    "net/ipv4/tcp_slow_start_after_idle": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv4/tcp_limit_output_bytes": "131072",
    "net/ipv6/conf/all/disable_ipv6": "1",  # its neighbour discovery would count as traffic
    "net/ipv6/conf/default/disable_ipv6": "1",
}


@dataclass(frozen=True)
class LinkCounters:
    """Traffic of one host's link since its creation, Ethernet headers included.

    Attributes:
      sent_bytes: bytes from the host to the switch.
      sent_packets: frames from the host; with segmentation offload, larger packets that are not yet split.
      received_bytes: bytes from the switch to the host.
      received_packets: frames or larger packets to the host.
    """

    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int

    def __sub__(self, earlier: "LinkCounters") -> "LinkCounters":
        """Returns the traffic since `earlier`."""
        return LinkCounters(
            self.sent_bytes - earlier.sent_bytes,
            self.sent_packets - earlier.sent_packets,
            self.received_bytes - earlier.received_bytes,
            self.received_packets - earlier.received_packets,
        )


def check_permission() -> None:
    """Checks that network namespaces can be created.

    Raises:
      UserError: not Linux, not root, or no iproute2.
    """
    if not sys.platform.startswith("linux"):
        raise UserError(f"emulated cluster: network namespaces need Linux, this is {sys.platform}")
    if os.geteuid() != 0:
        raise UserError(
            f"emulated cluster: user id {os.geteuid()} may not make network namespaces; run as root (id 0), with sudo"
        )
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise UserError(f"emulated cluster: program {program!r} not found on PATH; install iproute2")


class HostNetwork:
    """The namespaces and links of one cluster, created by the constructor and removed by `remove`."""

    def __init__(self, hosts: int, mtu: int):
        """Removes leftovers of dead owners, starts the watchdog, then creates the namespaces and their links.

        Args:
          hosts: number of hosts, H.
          mtu: largest IP packet on a link, in bytes.

        Raises:
          UserError: a number is out of range, or there is no permission.
        """
        if not 1 <= hosts <= MAX_HOSTS:
            raise UserError(f"emulated cluster: hosts={hosts}; must be 1 to {MAX_HOSTS}")
        if not _MIN_MTU <= mtu <= _MAX_MTU:
            raise UserError(f"emulated cluster: mtu={mtu}; must be {_MIN_MTU} to {_MAX_MTU}")
        check_permission()
        namespace_cleanup.remove_leftovers()
        self.hosts = hosts
        self.mtu = mtu
        pid = os.getpid()
        start_time = namespace_cleanup.read_start_time(pid)
        self.prefix = f"dmt-{pid}-{start_time}-{next(_CLUSTER_NUMBERS)}-"
        self.switch = f"{self.prefix}switch"
        self.names = [f"{self.prefix}host{host}" for host in range(hosts)]
        self.addresses = [f"10.0.0.{host + 1}" for host in range(hosts)]
        self._limited = False
        self._watchdog = _start_watchdog(self.prefix, pid, start_time)
        try:
            self._make()
        except BaseException:
            self.remove()
            raise

    def set_rate(self, mbit: float | None) -> None:
        """Limits every link in both directions. Call it while the links are idle: queued packets may be lost.

        Args:
          mbit: rate of Ethernet frames (without preamble and gap), 10^6 bits per second; None for no limit.

        Raises:
          UserError: the rate is not positive.
        """
        if mbit is not None and not mbit > 0:
            raise UserError(f"emulated cluster: rate {mbit} Mbit/s; must be above 0, or None for unlimited")
        if mbit is None and not self._limited:
            return
        ends = [(name, "eth0") for name in self.names]
        ends += [(self.switch, f"port{host}") for host in range(self.hosts)]
        limit = f"root tbf rate {round((mbit or 0) * 1e6)}bit burst {self._choose_burst(mbit)} limit {_QUEUE_BYTES}"
        for namespace in dict.fromkeys(name for name, _ in ends):
            devices = [device for name, device in ends if name == namespace]
            if mbit is None:
                lines = [f"qdisc del dev {device} root" for device in devices]
            else:
                lines = [f"qdisc replace dev {device} {limit}" for device in devices]
            _run(["tc", "-n", namespace, "-batch", "-"], lines)
        self._limited = mbit is not None

    def read_counters(self) -> list[LinkCounters]:
        """Reads the traffic counters of every link.

        Returns:
          One reading per host, from the switch's end of its link.
        """
        links = json.loads(_run(["ip", "-n", self.switch, "-json", "-stats", "link", "show"]))
        statistics = {link["ifname"]: link["stats64"] for link in links}
        ports = [statistics[f"port{host}"] for host in range(self.hosts)]
        return [
            LinkCounters(
                sent_bytes=port["rx"]["bytes"],
                sent_packets=port["rx"]["packets"],
                received_bytes=port["tx"]["bytes"],
                received_packets=port["tx"]["packets"],
            )
            for port in ports
        ]

    def remove(self) -> None:
        """Kills the processes in the namespaces, removes the namespaces with their links, and stops the watchdog."""
        for name in namespace_cleanup.list_names(self.prefix):
            namespace_cleanup.remove_namespace(name)
        self._watchdog.kill()
        self._watchdog.wait()

    def _choose_burst(self, mbit: float | None) -> int:
        """Bytes that may pass without limit after a pause: as few as keep the rate, but at least two frames."""
        return max(2 * (self.mtu + _ETHERNET_HEADER), round((mbit or 0) * 1e6 / 8 * _BURST_SECONDS))

    def _make(self) -> None:
        own_name = socket.gethostname()
        for name, address in zip(self.names, self.addresses, strict=True):
            folder = namespace_cleanup.NAMESPACE_SETTINGS / name
            folder.mkdir(parents=True)
            # Gloo binds to the address of the host name, which is 127.0.0.1 in the machine's hosts file.
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {own_name}\n", encoding="utf-8")
        everyone = [self.switch, *self.names]
        _run(["ip", "-batch", "-"], [f"netns add {name}" for name in everyone])
        for name in everyone:
            settings = [f"echo {value} > /proc/sys/{key}" for key, value in _KERNEL_SETTINGS.items()]
            # A kernel without IPv6, or without a setting per namespace, lacks the file and does not need the setting.
            script = "\n".join(f"[ ! -e {line.split()[-1]} ] || {line}" for line in settings)
            _run(["ip", "netns", "exec", name, "sh", "-e", "-c", script])
        _run(["ip", "-n", self.switch, "-batch", "-"], ["link add bridge type bridge mcast_snooping 0"])
        for host, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            port = f"port{host}"
            _run(
                ["ip", "-n", self.switch, "-batch", "-"],
                [
                    f"link add {port} type veth peer name eth0 netns {name}",
                    f"link set {port} mtu {self.mtu} master bridge up",
                ],
            )
            _run(
                ["ip", "-n", name, "-batch", "-"],
                [
                    "link set lo up",
                    f"link set eth0 mtu {self.mtu} up",
                    f"addr add {address}/24 dev eth0",
                    f"route replace 10.0.0.0/24 dev eth0 src {address} rto_min {_MIN_RETRANSMISSION_SECONDS}s",
                ],
            )
        _run(["ip", "-n", self.switch, "-batch", "-"], [f"link set bridge mtu {self.mtu} up"])


def _start_watchdog(prefix: str, pid: int, start_time: int | None) -> subprocess.Popen:
    # A new session, because a signal to the owner's process group, even SIGKILL, must not reach the watchdog. No
    # inherited pipes, because a reader of the owner's output would wait until the watchdog ends.
    return subprocess.Popen(
        [sys.executable, "-I", namespace_cleanup.__file__, prefix, str(pid), str(start_time)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


def _run(command: list[str], lines: list[str] | None = None) -> str:
    text = None if lines is None else "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise UserError(
            f"emulated cluster: {' '.join(command[:5])!r} failed: {reason}; needs the right to make network namespaces "
            "(CAP_SYS_ADMIN, CAP_NET_ADMIN) and a kernel with veth, bridge and tbf"
        )
    return done.stdout
