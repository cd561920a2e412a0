"""Runs the stages one after the other, each in a process of its own that is ended at the stage's limit."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from wukong_jax.bench.accelerator.sizes import SIZES, Row, SizeName

StageName = Literal["machine", "correctness", "tests", "embeddings", "steps", "memory", "loop"]
PROCESS = "wukong_jax.bench.accelerator.stage_process"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage: the module of its cases, and the seconds that its process may take."""

    module: str
    seconds: float


_PACKAGE = "wukong_jax.bench.accelerator"
# 400 seconds in all: with the installation of wheels, less than eight minutes.
STAGES: Mapping[StageName, Stage] = {
    "machine": Stage(f"{_PACKAGE}.facts", 20),
    "correctness": Stage(f"{_PACKAGE}.device_check", 80),
    "tests": Stage(f"{_PACKAGE}.device_tests", 50),
    "embeddings": Stage(f"{_PACKAGE}.bag_speed", 75),
    "steps": Stage(f"{_PACKAGE}.step_speed", 95),
    "memory": Stage(f"{_PACKAGE}.step_memory", 40),
    "loop": Stage(f"{_PACKAGE}.loop_speed", 40),
}


def run_stages(
    names: Sequence[StageName],
    size: SizeName,
    see_rows: Callable[[list[Row]], None],
    stages: Mapping[StageName, Stage] = STAGES,
) -> list[Row]:
    """Runs stages.

    Args:
      names: the stages, in order.
      size: what to measure.
      see_rows: called with the rows of all stages so far, after each stage.
      stages: modules and limits by name.

    Returns:
      The rows. Each has `stage` and `case`; a case that failed has an `error`. A stage whose process did not end well
      has a row of the case "process" with an `error`.
    """
    rows: list[Row] = []
    for name in names:
        rows += run_stage(name, stages[name], size)
        see_rows(rows)
    return rows


def run_stage(name: str, stage: Stage, size: SizeName) -> list[Row]:
    """Runs one stage; its rows are kept up to the moment at which its process ends, however it ends."""
    limit = stage.seconds * SIZES[size].patience
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", PROCESS, stage.module, size, str(file)]
        start = time.monotonic()
        code = _run_process(command, limit)
        rows = [{"stage": name, **row} for row in _read_rows(file)]
    if code is None:
        error = f"took longer than its {limit:g} s and was ended; cases without a row did not run or finish"
    elif code < 0:
        error = f"ended by {signal.Signals(-code).name}; cases without a row did not run or finish"
    else:
        error = f"ended with exit code {code}" if code else ""
    seconds = round(time.monotonic() - start, 1)
    return [*rows, {"stage": name, "case": "process", "seconds": seconds, **({"error": error} if error else {})}]


def _run_process(command: Sequence[str], limit: float) -> int | None:
    """Returns the exit code, or None if the limit was reached; ends also what the process has started."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_environment(), start_new_session=True) as process:
        try:
            return process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """The stage's environment: the CPU stays usable beside an accelerator, as the reference of `device_check`."""
    environment = dict(os.environ)
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        environment["JAX_PLATFORMS"] = f"{platforms},cpu"
    return environment


def _read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows that a process wrote; the last line of one that was ended may be cut off."""
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
