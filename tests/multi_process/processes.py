"""Runs teams of real processes on this machine, with CPU devices and Gloo, bounded in time."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.multi_process import counted_reads
from tests.multi_process.faults import VARIABLE
from tests.repository import ROOT
from wukong_jax.clusters.local_processes import find_free_port

CONFIG = Path(__file__).with_name("team_config.py")
STALL_SECONDS = 15.0
LANES = 4
LIMIT = 180  # seconds of a whole run, on a machine that may be busy


def build_environment(fault: str = "", reads: Path | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # which counts devices, too
    kept |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return kept | ({VARIABLE: fault} if fault else {}) | ({counted_reads.VARIABLE: str(reads)} if reads else {})


def launch(processes: int, devices: int, *command: str, reads: Path | None = None) -> subprocess.CompletedProcess:
    """Runs a command by `launch_local` to its end; `reads`: the folder in which training counts its reads of blocks."""
    place = (f"--processes={processes}", f"--devices={devices}", f"--grace={2 * STALL_SECONDS}")
    words = [sys.executable, str(ROOT / "scripts" / "launch_local.py"), *place, "--", *command]
    environment = build_environment(reads=reads)
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


def train(workdir: Path, processes: int, devices: int, steps: int, *flags: str) -> dict[str, Any]:
    """Trains the team's run to a step, with rows in lanes, and returns its summary."""
    words = (f"--config={CONFIG}", f"--workdir={workdir}", f"--config.training.steps={steps}")
    lanes = f"--config.data.lanes={LANES}"
    done = launch(processes, devices, "train", *words, lanes, *flags, reads=name_reads(workdir))
    assert done.returncode == 0, done.stderr
    return json.loads((workdir / "summary.json").read_text())


def name_reads(workdir: Path) -> Path:
    """Returns the folder with the reads of the processes that train in another; see `counted_reads`."""
    return workdir.with_name(f"{workdir.name}_reads")


class Member:
    """A process of a team that was started alone, with what it has printed to stderr."""

    def __init__(self, words: list[str], fault: str) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(words, env=build_environment(fault), cwd=ROOT, text=True, **pipes)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self._lines.extend(self.process.stderr or ()), daemon=True)
        self._reader.start()

    @property
    def err(self) -> str:
        return "".join(self._lines)

    def read_rest(self) -> None:
        self._reader.join(timeout=5.0)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def code(self) -> int | None:
        return self.process.poll()


@contextlib.contextmanager
def start_team(workdir: Path, processes: range, count: int, *flags: str, fault: str = "") -> Iterator[list[Member]]:
    """Starts processes of a training one by one, as an ssh loop would; kills what is left at the end."""
    place = (f"--coordinator=127.0.0.1:{find_free_port()}", f"--processes={count}", "--local_devices=1")
    words = [sys.executable, str(ROOT / "scripts" / "train.py"), *place, f"--config={CONFIG}", f"--workdir={workdir}"]
    words += [f"--config.training.stall_limit={STALL_SECONDS}", *flags]
    team = [Member([*words, f"--process={i}"], fault) for i in processes]
    try:
        yield team
    finally:
        for member in team:
            member.process.kill()
            member.process.wait()


def wait_for(text: str, member: Member) -> None:
    """Waits until a process has printed a text to stderr."""
    stop = time.monotonic() + LIMIT
    while text not in member.err:
        assert time.monotonic() < stop, member.err
        assert member.code is None, member.err
        time.sleep(0.02)


def wait_for_end(team: list[Member], seconds: float) -> list[int | None]:
    """Waits until processes have ended; returns their exit codes, None of one that has not."""
    stop = time.monotonic() + seconds
    while any(member.code is None for member in team) and time.monotonic() < stop:
        time.sleep(0.02)
    codes = [member.code for member in team]
    for member, code in zip(team, codes, strict=True):
        if code is not None:
            member.read_rest()
    return codes
