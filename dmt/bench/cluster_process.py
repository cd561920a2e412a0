"""What one emulated host's process does: joins the others over Gloo, then answers the driver's commands.

A worker script is

    from dmt.bench.cluster_process import join_cluster, serve

    host = join_cluster()           # before the first use of jax
    serve({"run": run, ...})        # until the driver stops it

How Gloo moves bytes. Measured on the links' counters (headers, below 1 %, taken off), as what one host sends in units
of `P`, the bytes that each device puts in, on a mesh of 4 hosts x 2 chips with `P` of 4 MiB, with the form it follows,
which held on 3 x 2 and 2 x 4 too; nothing crosses a link over `chip` alone. With `P` of 64 KiB the same, headers and
Gloo's own messages being up to 10 %.

| collective     | over both axes            | over `host`          | how                                            |
| -------------- | ------------------------- | -------------------- | ---------------------------------------------- |
| all-to-all     | 1.5 = C (H - 1) / H       | 1.5 = C (H - 1) / H  | direct, each block once                        |
| all-gather     | 7 = H C - 1               | 6 = C (H - 1)        | ring in rank order; over both axes only a      |
| all-reduce     | 1.75 = 2 (H C - 1) / (H C)| 3 = 2 C (H - 1) / H  | host's last device sends to another host       |
| reduce-scatter | 0.875 (2 x 4: 0.75)       | 1.5, 2, 2, 1.5       | recursive halving, then reordering; not a ring |

Recursive halving: device i exchanges with i XOR 1 half of what it holds, with i XOR 2 a quarter, and so on, and ends
with the block whose number has its own number's bits reversed, which it sends to whom it belongs. With 3 hosts of 2 it
is uneven: 0.75, 0.83 and 1 over both axes, 1.33, 1.67 and 2 over `host`. A ring would send (H C - 1) / (H C) and
C (H - 1) / H.

Commands and results are JSON lines over two pipes of the driver's, which do not cross the emulated network: steering a
measurement adds nothing to the links' counters. Anything printed goes to the worker's log, never into the channel.
"""

import json
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from wukong_jax.errors import UserError

HOST = "EMULATED_HOST"
HOSTS = "EMULATED_HOSTS"
CHIPS = "EMULATED_CHIPS"
COORDINATOR = "EMULATED_COORDINATOR"
COMMANDS = "EMULATED_COMMANDS_FD"
RESULTS = "EMULATED_RESULTS_FD"


@dataclass(frozen=True)
class EmulatedHost:
    """This process's place in the cluster.

    Attributes:
      host: its number, from 0; also its jax process index.
      hosts: H.
      chips: C, CPU devices of each host.
    """

    host: int
    hosts: int
    chips: int


def read_host() -> EmulatedHost:
    """Reads this process's place from its environment.

    Returns:
      The place.

    Raises:
      UserError: the process was not started by an emulated cluster.
    """
    missing = [name for name in (HOST, HOSTS, CHIPS, COORDINATOR, COMMANDS, RESULTS) if name not in os.environ]
    if missing:
        raise UserError(
            f"environment: {missing[0]} is not set; an emulated host is started by dmt.bench.emulated_cluster"
        )
    return EmulatedHost(int(os.environ[HOST]), int(os.environ[HOSTS]), int(os.environ[CHIPS]))


def join_cluster() -> EmulatedHost:
    """Makes this process one of the cluster's: `jax.devices()` then holds all H * C devices, ordered by host.

    Returns:
      Its place.

    Raises:
      UserError: the process was not started by an emulated cluster.
      RuntimeError: the devices are not what the cluster was made for.
    """
    place = read_host()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(os.environ[COORDINATOR], place.hosts, place.host)
    found = [device.process_index for device in jax.devices()]
    expected = [host for host in range(place.hosts) for _ in range(place.chips)]
    if found != expected:
        raise RuntimeError(f"jax.devices() belong to processes {found}, the cluster was made for {expected}")
    return place


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Answers the driver until it closes the channel.

    Args:
      commands: functions by name; each takes the call's keyword arguments and returns what JSON can hold. An exception
        goes to the driver, with its traceback, and does not end the worker.

    Raises:
      UserError: the process was not started by an emulated cluster.
    """
    read_host()
    requests_fd, replies_fd = int(os.environ[COMMANDS]), int(os.environ[RESULTS])
    for descriptor in (requests_fd, replies_fd):
        os.set_inheritable(descriptor, False)  # a child of ours must not keep the channel open
    with os.fdopen(requests_fd, "r") as requests, os.fdopen(replies_fd, "w") as replies:
        _send(replies, {"ready": True})
        for line in requests:
            _send(replies, _answer(commands, json.loads(line)))


def _answer(commands: Mapping[str, Callable[..., Any]], request: dict[str, Any]) -> dict[str, Any]:
    name = request["command"]
    if name not in commands:
        return {"error": f"unknown command {name!r}; the worker serves {sorted(commands)}", "traceback": ""}
    try:
        result = commands[name](**request["arguments"])
        json.dumps(result)  # a result that JSON cannot hold is the command's failure, not the channel's
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {"result": result}


def _send(replies: Any, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()
