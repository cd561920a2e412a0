"""Clean-up of network namespaces of emulated hosts whose owner process has ended.

A namespace's name identifies its owner: `dmt-PID-START-NUMBER-PART`. It includes the start time of the process because
process ids are reused. A later process can thus tell leftovers of a dead owner from a running cluster. Removing a
namespace also removes its links, its rate limits and, for the switch's namespace, the bridge. The only other trace of a
cluster is the folder `/etc/netns/NAME` with its hosts file. The folder `/etc/netns` belongs to iproute2 and stays.

Run as a program (`python namespace_cleanup.py PREFIX PID START`), this module is the watchdog of one cluster: it waits
until the owner ends, for whatever reason, and then cleans up. It imports only the standard library, to start quickly.
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
# A command started by the owner may outlive it for a moment and still create a namespace, so the watchdog ends only
# after this many seconds without one.
_QUIET_SECONDS = 1.0


def read_start_time(pid: int) -> int | None:
    """Reads when a process started.

    Args:
      pid: id of the process.

    Returns:
      Clock ticks since boot; None if no such process is running (a zombie is not running).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the process name before ")" may contain spaces
    return None if fields[0] in "ZX" else int(fields[19])


def list_names(prefix: str = "") -> list[str]:
    """Lists the namespaces and settings folders of emulated clusters.

    Args:
      prefix: list only names that start with this.

    Returns:
      The names, sorted.
    """
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    names = {line.split()[0] for line in listed.splitlines() if line.strip()}
    if NAMESPACE_SETTINGS.is_dir():
        names |= {path.name for path in NAMESPACE_SETTINGS.iterdir()}
    return sorted(name for name in names if _NAME.fullmatch(name) and name.startswith(prefix))


def remove_namespace(name: str) -> None:
    """Kills the processes in a namespace, then removes the namespace and its settings folder, if they exist.

    Args:
      name: name of the namespace.
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
    """Removes the namespaces of all owners that have ended.

    Returns:
      The removed names.
    """
    removed = []
    for name in list_names():
        matched = _NAME.fullmatch(name)
        if matched and read_start_time(int(matched[1])) != int(matched[2]):
            remove_namespace(name)
            removed.append(name)
    return removed


def wait_for_end(pid: int, start_time: int) -> None:
    """Waits until a process has ended.

    Args:
      pid: id of the process.
      start_time: its start time, from `read_start_time`.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    if read_start_time(pid) == start_time:
        select.select([handle], [], [])
    os.close(handle)


def main(prefix: str, pid: str, start_time: str) -> None:
    """Waits until the owner has ended, then removes the namespaces of its cluster.

    Args:
      prefix: common prefix of the cluster's names.
      pid: process id of the owner.
      start_time: start time of the owner.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the owner, not for the watchdog
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
