"""Runs teams of real processes on this machine, with CPU devices and Gloo, bounded in time."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.repository import ROOT
from wukong_jax.clusters.local_processes import find_free_port

CONFIG = Path(__file__).with_name("team_config.py")
STALL_SECONDS = 8.0
_LIMIT = 150  # seconds of a whole run, on a machine that may be busy


def build_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # which counts devices, too
    return kept | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


def launch(processes: int, devices: int, *command: str) -> subprocess.CompletedProcess:
    """Runs a command by `launch_local` to its end."""
    place = (f"--processes={processes}", f"--devices={devices}", f"--stall_seconds={STALL_SECONDS}")
    words = [sys.executable, str(ROOT / "scripts" / "launch_local.py"), *place, "--", *command]
    return subprocess.run(words, env=build_environment(), cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT)


def train(workdir: Path, processes: int, devices: int, steps: int, *flags: str) -> dict[str, Any]:
    """Trains the team's run to a step and returns its summary."""
    words = (f"--config={CONFIG}", f"--workdir={workdir}", f"--config.training.steps={steps}", *flags)
    done = launch(processes, devices, "train", *words)
    assert done.returncode == 0, done.stderr
    return json.loads((workdir / "summary.json").read_text())


@contextlib.contextmanager
def start_team(workdir: Path, count: int, *flags: str) -> Iterator[list[subprocess.Popen]]:
    """Starts the processes of a training one by one, as an ssh loop would; kills what is left at the end."""
    place = (f"--coordinator=127.0.0.1:{find_free_port()}", f"--processes={count}", "--local_devices=2")
    words = [sys.executable, str(ROOT / "scripts" / "train.py"), *place, f"--stall_seconds={STALL_SECONDS}"]
    words += [f"--config={CONFIG}", f"--workdir={workdir}", *flags]
    pipe = subprocess.PIPE
    options: dict[str, Any] = {"env": build_environment(), "cwd": ROOT, "stdout": pipe, "stderr": pipe, "text": True}
    team = [subprocess.Popen([*words, f"--process={i}"], **options) for i in range(count)]
    try:
        yield team
    finally:
        for process in team:
            process.kill()
            process.communicate()


def wait_for_lines(workdir: Path, lines: int, team: list[subprocess.Popen]) -> None:
    """Waits until the run has written so many lines of metrics."""
    metrics = workdir / "metrics.jsonl"
    _wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= lines, team)


def wait_for_file(path: Path, team: list[subprocess.Popen]) -> None:
    """Waits until a file is there."""
    _wait_until(path.exists, team)


def _wait_until(happened: Callable[[], bool], team: list[subprocess.Popen]) -> None:
    stop = time.monotonic() + _LIMIT
    while not happened():
        assert time.monotonic() < stop
        ended = [process for process in team if process.poll() is not None]
        assert not ended, ended[0].stderr.read()
        time.sleep(0.02)


def end(team: list[subprocess.Popen], seconds: float) -> list[tuple[int, str]]:
    """Waits for the ends of the processes; returns the exit code and stderr of each."""
    stop = time.monotonic() + seconds
    ends = []
    for process in team:
        _, err = process.communicate(timeout=max(0.1, stop - time.monotonic()))
        ends.append((process.returncode, err))
    return ends


def read_errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("error: ")]
