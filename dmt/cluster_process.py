"""What one emulated host's process does: joins the others over Gloo, then answers the driver's commands.

A worker script is

    from dmt.cluster_process import join_cluster, serve

    host = join_cluster()           # before the first use of jax
    serve({"run": run, ...})        # until the driver stops it

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
        raise UserError(f"environment: {missing[0]} is not set; an emulated host is started by dmt.emulated_cluster")
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
