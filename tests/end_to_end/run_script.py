"""Runs the project's scripts as child processes, as a user does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.repository import ROOT as REPOSITORY

TINY = Path(__file__).with_name("tiny_config.py")


def start_script(name: str, *flags: str, devices: int = 1) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(REPOSITORY / "scripts" / name), *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=REPOSITORY)


def run_script(name: str, *flags: str, devices: int = 1) -> tuple[int, str, str]:
    """Runs a script; returns exit code, stdout and stderr."""
    process = start_script(name, *flags, devices=devices)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def train_tiny(workdir: Path, *flags: str, devices: int = 1) -> dict[str, Any]:
    """Trains the tiny run to its end and returns its summary."""
    code, _, err = run_script("train.py", f"--config={TINY}", f"--workdir={workdir}", *flags, devices=devices)
    assert code == 0, err
    return json.loads((workdir / "summary.json").read_text())


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl without timings, which differ between runs."""
    lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "examples_per_second"} for line in lines]
