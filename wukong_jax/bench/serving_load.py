"""Loads a server over the loopback while its artefact is replaced, and counts what was lost."""

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wukong_jax.serving.artefact import MANIFEST

_START_SECONDS = 120


@dataclasses.dataclass
class _Client:
    """What one connection has seen."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    lost: list[str] = dataclasses.field(default_factory=list)
    steps: set[int] = dataclasses.field(default_factory=set)


def measure_load(
    folder: Path, rows: Sequence[dict[str, Any]], clients: int, rows_per_request: int, seconds: float
) -> dict[str, Any]:
    """Serves an artefact in a process of its own, and asks it without pause; halfway, a new artefact takes its place.

    Args:
      folder: the artefact; it is replaced.
      rows: raw rows to send.
      clients: connections, each of which waits for its answer before it asks again.
      rows_per_request: rows of a request.
      seconds: how long to ask.

    Returns:
      Requests and rows a second, latencies in milliseconds, requests without the right answer, and reloads seen.
    """
    with _serving(folder) as port:
        seen = [_Client() for _ in range(clients)]
        done = threading.Event()
        bodies = [
            json.dumps({"rows": rows[start : start + rows_per_request]}).encode()
            for start in range(0, len(rows) - rows_per_request + 1, rows_per_request)
        ]
        threads = [
            threading.Thread(target=_ask, args=(port, bodies[number::clients], rows_per_request, one, done))
            for number, one in enumerate(seen)
        ]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        time.sleep(seconds / 2)
        replace_artefact(folder, 10**6)
        time.sleep(seconds / 2)
        done.set()
        for thread in threads:
            thread.join()
        passed = time.perf_counter() - started
    latencies = np.array([value for one in seen for value in one.seconds]) * 1e3
    return {
        "path": f"server, {clients} connections, {rows_per_request} rows a request",
        "rows": rows_per_request,
        "requests_per_second": round(len(latencies) / passed, 1),
        "rows_per_second": round(len(latencies) * rows_per_request / passed),
        "p50_ms": round(float(np.median(latencies)), 3),
        "p99_ms": round(float(np.quantile(latencies, 0.99)), 3),
        "requests": len(latencies),
        "lost": sum(len(one.lost) for one in seen),
        "first_lost": next((text for one in seen for text in one.lost), None),
        "artefacts_seen": len(set().union(*(one.steps for one in seen))),
    }


def replace_artefact(folder: Path, step: int) -> None:
    """Puts a copy of an artefact in its place, as another export does, with another step in its manifest."""
    aside, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.copytree(folder, aside)
    mapping = json.loads((aside / MANIFEST).read_text(encoding="utf-8"))
    (aside / MANIFEST).write_text(json.dumps(mapping | {"step": step}), encoding="utf-8")
    os.rename(folder, old)
    os.rename(aside, folder)
    shutil.rmtree(old)


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wukong_jax", "serve", f"--artefact={folder}", f"--port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_until_ready(server, port)
            yield port
        finally:
            server.terminate()


def _wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise OSError(f"the server did not start in {_START_SECONDS} s")


def _ask(port: int, bodies: Sequence[bytes], rows: int, seen: _Client, done: threading.Event) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    number = 0
    while not done.is_set():
        started = time.perf_counter()
        try:
            connection.request("POST", "/score", bodies[number % len(bodies)])
            answer = connection.getresponse()
            text = answer.read()
            content = json.loads(text)
            if answer.status != 200 or content["errors"] or len(content["scores"]) != rows:
                raise ValueError(text[:200].decode())
            seen.steps.add(content["artefact"]["step"])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            seen.lost.append(f"{type(error).__name__}: {error}")
            connection.close()
        seen.seconds.append(time.perf_counter() - started)
        number += 1
    connection.close()
