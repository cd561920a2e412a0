"""Stands in for the tools that the launch files call, and collects the commands that the files would start."""

import os
import shlex
import stat
import subprocess
import time
from pathlib import Path

from tests.repository import ROOT

FOLDER = ROOT / "scripts" / "launch"
TRAIN = ("--config=quickstart", "--workdir=runs/x")
# One write a call, which those of other programs cannot divide.
_WRITE_DOWN = 'printf -v call "%q " "$(basename "$0")" "$@"; echo "$call" >>"$CALLS"\n'


def write_program(path: Path, body: str) -> Path:
    """Writes a shell program that notes its name and arguments, then does something."""
    path.write_text(f"#!/usr/bin/env bash\n{_WRITE_DOWN}{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def read_calls(folder: Path) -> list[list[str]]:
    """Returns name and arguments of every call, in order."""
    calls = folder / "calls.txt"
    return [shlex.split(line) for line in calls.read_text(encoding="utf-8").splitlines()] if calls.exists() else []


def make_environment(folder: Path, **own: str) -> dict[str, str]:
    """Returns an environment in which the folder's programs are found first."""
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls.txt")} | own


def start(name: str, folder: Path, *arguments: str, **own: str) -> subprocess.Popen[str]:
    """Starts a launch file with stand-ins from a folder."""
    return subprocess.Popen(
        ["bash", str(FOLDER / name), *arguments],
        cwd=folder,
        env=make_environment(folder, **own),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits for a launch file; returns its exit code, output and errors."""
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def wait_until(happened, seconds: float = 20.0) -> None:
    """Waits for a condition.

    Raises:
      TimeoutError: it does not come true.
    """
    stop = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > stop:
            raise TimeoutError
        time.sleep(0.05)
