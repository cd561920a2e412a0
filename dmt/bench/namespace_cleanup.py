"""Removes the network namespaces of emulated hosts whose owner is gone.

A namespace's name carries its owner, `dmt-PID-START-NUMBER-PART`, with the start time of the process beside its id,
since ids are used again. So whoever comes next can tell a dead owner's leftovers from a living cluster. Removing a
namespace removes its links, its rate limits and, for the switch's namespace, the bridge: nothing of a cluster lives
anywhere else, save the `/etc/netns/NAME` folder with its hosts file. The folder `/etc/netns` itself stays; it is
iproute2's.

Run as a program (`python namespace_cleanup.py PREFIX PID START`) it is the watchdog of one cluster: it waits for the
owner's end, however it comes, and then cleans up. It uses the standard library only, so that it is up at once.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NAMESPACE_SETTINGS = Path("/etc/netns")
_NAME = re.compile(r"dmt-(\d+)-(\d+)-\d+-(?:switch|host\d+)")
_KILL_SECONDS = 5.0
# A command of the owner's may outlive it by a moment and still make a namespace; this many seconds without one end the
# watch.
_QUIET_SECONDS = 1.0


def read_start_time(pid: int) -> int | None:
    """Reads when a process started.

    Args:
      pid: its id.

    Returns:
      Clock ticks since boot; None where no such process lives (an ended one that nobody waited for does not live).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
    return None if fields[0] in "ZX" else int(fields[19])


def list_names(prefix: str = "") -> list[str]:
    """Lists namespaces, and settings folders, of emulated clusters.

    Args:
      prefix: only names that start with this.

    Returns:
      The names, sorted.
    """
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    names = {line.split()[0] for line in listed.splitlines() if line.strip()}
    if NAMESPACE_SETTINGS.is_dir():
        names |= {path.name for path in NAMESPACE_SETTINGS.iterdir()}
    return sorted(name for name in names if _NAME.fullmatch(name) and name.startswith(prefix))


def remove_namespace(name: str) -> None:
    """Kills what runs in a namespace, then removes the namespace and its settings; absent ones are no error.

    Args:
      name: the namespace.
    """
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
        if not listed.split():
            break
        for pid in listed.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    shutil.rmtree(NAMESPACE_SETTINGS / name, ignore_errors=True)


def remove_leftovers() -> list[str]:
    """Removes the namespaces of every owner that no longer lives.

    Returns:
      The names removed.
    """
    removed = []
    for name in list_names():
        matched = _NAME.fullmatch(name)
        if matched and read_start_time(int(matched[1])) != int(matched[2]):
            remove_namespace(name)
            removed.append(name)
    return removed


def wait_for_end(pid: int, start_time: int) -> None:
    """Returns once a process has ended, at once where it already has.

    Args:
      pid: its id.
      start_time: as `read_start_time` gave it.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if read_start_time(pid) == start_time:
        select.select([handle], [], [])
    os.close(handle)


def main(prefix: str, pid: str, start_time: str) -> None:
    """Waits for the owner's end, then removes the namespaces of its cluster.

    Args:
      prefix: how the cluster's names start.
      pid: the owner's process id.
      start_time: the owner's start time.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the owner, not for who cleans up after it
        signal.signal(number, signal.SIG_IGN)
    wait_for_end(int(pid), int(start_time))
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < _QUIET_SECONDS:
        for name in list_names(prefix):
            remove_namespace(name)
            quiet_since = time.monotonic()
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
