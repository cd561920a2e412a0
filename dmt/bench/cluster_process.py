"""The process of one emulated host: it joins the other hosts over Gloo, then answers the driver's commands.

A worker script looks like this:

    from dmt.bench.cluster_process import join_cluster, serve

    host = join_cluster()           # before the first use of jax
    serve({"run": run, ...})        # until the driver stops it

The table shows how many bytes one host sends in each of Gloo's collectives, in units of `P`, the input bytes of one
device. It was measured with the link counters (headers, below 1 %, subtracted) on 4 hosts x 2 chips with `P` = 4 MiB.
The formulas also held on 3 x 2 and 2 x 4. Collectives over `chip` alone send nothing over the links. With `P` = 64 KiB
the results are the same, except that headers and Gloo's control messages add up to 10 %.

| collective     | over both axes            | over `host`          | how                                            |
| -------------- | ------------------------- | -------------------- | ---------------------------------------------- |
| all-to-all     | 1.5 = C (H - 1) / H       | 1.5 = C (H - 1) / H  | direct, each block once                        |
| all-gather     | 7 = H C - 1               | 6 = C (H - 1)        | ring in rank order; over both axes only a      |
| all-reduce     | 1.75 = 2 (H C - 1) / (H C)| 3 = 2 C (H - 1) / H  | host's last device sends to another host       |
| reduce-scatter | 0.875 (2 x 4: 0.75)       | 1.5, 2, 2, 1.5       | recursive halving, then reordering; not a ring |

Recursive halving: device i exchanges half of its data with device i XOR 1, a quarter with i XOR 2, and so on. It ends
with the block whose number is its own number with the bits reversed, and sends this block to the device that needs it.
With 3 hosts x 2 chips the hosts send unequal amounts: 0.75, 0.83 and 1 over both axes, 1.33, 1.67 and 2 over `host`. A
ring would send (H C - 1) / (H C) and C (H - 1) / H.

Commands and results are lines of JSON over two pipes to the driver. The pipes do not cross the emulated network, so
commands add nothing to the link counters. Anything a worker prints goes to its log, never into the pipes.
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
    """The position of this process in the cluster.

    Attributes:
      host: number of the host, from 0; also its JAX process index.
      hosts: H.
      chips: C, CPU devices of each host.
    """

    host: int
    hosts: int
    chips: int


def read_host() -> EmulatedHost:
    """Reads the position of this process from its environment variables.

    Returns:
      The position.

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
    """Joins the cluster; afterwards `jax.devices()` lists all H * C devices, ordered by host.

    Returns:
      The position of this process.

    Raises:
      UserError: the process was not started by an emulated cluster.
      RuntimeError: the devices are not those that the cluster expects.
    """
    place = read_host()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(os.environ[COORDINATOR], place.hosts, place.host)
    found = [device.process_index for device in jax.devices()]
    expected = [host for host in range(place.hosts) for _ in range(place.chips)]
    if found != expected:
        raise RuntimeError(f"jax.devices() belong to processes {found}, the cluster expects {expected}")
    return place


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Answers the driver's commands until the driver closes the pipe.

    Args:
      commands: functions by command name; each takes the call's keyword arguments and returns a JSON value. If one
        raises, the driver gets the exception with its traceback, and the worker keeps running.

    Raises:
      UserError: the process was not started by an emulated cluster.
    """
    read_host()
    requests_fd, replies_fd = int(os.environ[COMMANDS]), int(os.environ[RESULTS])
    for descriptor in (requests_fd, replies_fd):
        os.set_inheritable(descriptor, False)  # a child process must not keep the pipes open
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
        json.dumps(result)  # report a result that JSON cannot hold as an error of the command
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return {"result": result}


def _send(replies: Any, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()
