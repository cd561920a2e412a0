"""Emulated hosts' network: a namespace a host, each joined by one rate-limited link to a switch.

                     switch's namespace: bridge
        port0 | tbf      port1 | tbf      port2 | tbf          limits what a host receives
              |                |                |
         eth0 | tbf       eth0 | tbf       eth0 | tbf          limits what a host sends
          host0's           host1's          host2's namespace

The bridge has a namespace of its own, so nothing appears among the machine's own interfaces, its firewall rules do not
apply, and two clusters use the same addresses without meeting.

What the settings are for, with one TCP stream's throughput on a shared machine of 2 cores:

* frames of 9,000 bytes, as in most clusters' fabrics: goodput is 99 % of the rate that `tbf` keeps (it counts Ethernet
  frames); with 1,500 it is 95 %.
* segmentation offload stays on: without it one core sends 0.2 to 1.3 Gbit/s, and `unlimited` would not mean much. `tbf`
  cuts what is larger than its burst, and counts the headers of every frame that an uncut one will become, so the rate
  holds. The interfaces' counters count one header for an uncut one: they lie below a real wire's bytes by up to 0.7 %.
* a queue far longer than any step's messages, and no early retransmission timeout: several hosts may send to one at
  once. A drop, or a wait that TCP takes for one, would cost 200 ms, which no lossless fabric has.
* few bytes of one connection in a queue (`tcp_limit_output_bytes`): connections then take turns, as they do on a
  network card.
* reno instead of the machine's own choice of congestion control: the only one that every kernel has and lets a
  namespace choose; without drops it just opens its window. No slow start after a pause between steps, and no memory of
  earlier connections: a step costs the same whatever ran before.

Measured goodput of one stream: 99 % of the rate at 50 to 400 Mbit/s, 98 % at 1 Gbit/s, 96 % at 4 Gbit/s, 80 % at
10 Gbit/s (the cores' limit), 20 Gbit/s and more when unlimited. Collectives of a ring reach the same; an all-to-all
takes 1.05 times its bytes' time at 1 Gbit/s and 1.2 to 1.4 times at 50 to 100 Mbit/s, since hosts do not send to
distinct receivers at every moment and a receiver's link then has a queue while another's idles.
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
_BURST_SECONDS = 1e-3  # what a late timer (a busy core) may make up for
_QUEUE_BYTES = 256 * 2**20
_MIN_RETRANSMISSION_SECONDS = 5  # above what a queue of one step's messages delays a packet by on the slowest link
_CLUSTER_NUMBERS = itertools.count()

_KERNEL_SETTINGS = {
    "net/ipv4/tcp_congestion_control": "reno",
    "net/ipv4/tcp_slow_start_after_idle": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv4/tcp_limit_output_bytes": "131072",
    "net/ipv6/conf/all/disable_ipv6": "1",  # its neighbour messages would count as traffic
    "net/ipv6/conf/default/disable_ipv6": "1",
}


@dataclass(frozen=True)
class LinkCounters:
    """What one host's link has carried since it was made, Ethernet headers included.

    Attributes:
      sent_bytes: from the host to the switch.
      sent_packets: frames, or uncut larger ones where segmentation is offloaded.
      received_bytes: from the switch to the host.
      received_packets: likewise.
    """

    sent_bytes: int
    sent_packets: int
    received_bytes: int
    received_packets: int

    def __sub__(self, earlier: "LinkCounters") -> "LinkCounters":
        """What was carried since `earlier`."""
        return LinkCounters(
            self.sent_bytes - earlier.sent_bytes,
            self.sent_packets - earlier.sent_packets,
            self.received_bytes - earlier.received_bytes,
            self.received_packets - earlier.received_packets,
        )


def check_permission() -> None:
    """Refuses where namespaces cannot be made.

    Raises:
      UserError: without Linux, root or iproute2.
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
    """The namespaces and links of one cluster. Made by the constructor; `remove` takes them away."""

    def __init__(self, hosts: int, mtu: int):
        """Starts the watchdog and removes dead owners' leftovers, then makes the namespaces and joins them.

        Args:
          hosts: how many.
          mtu: largest IP packet of a link, bytes.

        Raises:
          UserError: a number out of range; no permission.
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
        """Limits every link, both ways. Call it while the links are idle: what waits in a queue may be lost.

        Args:
          mbit: 10^6 bits a second of Ethernet frames (without preamble and gap); None for no limit.

        Raises:
          UserError: a rate that is not positive.
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
        """Reads every link's counters.

        Returns:
          One a host, counted at the switch's end of its link.
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
        """Kills what runs in the namespaces, and removes them and all that belongs to them."""
        for name in namespace_cleanup.list_names(self.prefix):
            namespace_cleanup.remove_namespace(name)
        self._watchdog.kill()
        self._watchdog.wait()

    def _choose_burst(self, mbit: float | None) -> int:
        """Bytes that pass unlimited after a pause: as few as hold the rate, and room for two frames."""
        return max(2 * (self.mtu + _ETHERNET_HEADER), round((mbit or 0) * 1e6 / 8 * _BURST_SECONDS))

    def _make(self) -> None:
        own_name = socket.gethostname()
        for name, address in zip(self.names, self.addresses, strict=True):
            folder = namespace_cleanup.NAMESPACE_SETTINGS / name
            folder.mkdir(parents=True)
            # Gloo binds to what the machine's own name means: with the machine's own hosts file that is 127.0.0.1.
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {own_name}\n")
        everyone = [self.switch, *self.names]
        _run(["ip", "-batch", "-"], [f"netns add {name}" for name in everyone])
        for name in everyone:
            settings = [f"echo {value} > /proc/sys/{key}" for key, value in _KERNEL_SETTINGS.items()]
            # A kernel without IPv6, or without a namespaced setting, has no such file, and needs none.
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
    # A session of its own: a signal to the owner's group, even SIGKILL, must not reach it. No pipe of the owner's:
    # whoever reads the owner's output would wait for the watchdog's end.
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
