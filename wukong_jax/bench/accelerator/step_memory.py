"""Compares the memory of a step with what the compiler counts, here and ahead of time.

A device tells the peak of its whole process, so this is the only step of its process.
"""

import dataclasses
import functools
import json
import subprocess
import sys

import jax

from wukong_jax.bench.accelerator.sizes import SIZES, Cases, Row, Size, SizeName
from wukong_jax.bench.accelerator.step_runs import build_step_config, build_step_run, build_step_schema, draw_step_batch
from wukong_jax.clusters.compile_ahead import (
    compile_train_step,
    describe_devices,
    has_compiler,
    read_memory,
    use_no_accelerator,
)
from wukong_jax.clusters.targets import find_target
from wukong_jax.config import build_run_config
from wukong_jax.runs.evaluation import put_batch

TARGET = "h100_1x1"
_STEPS = 3


def list_cases(size: Size) -> Cases:
    """Returns the stage's cases."""
    cases: Cases = {f"{size.memory_step} float32": functools.partial(measure_memory, size)}
    return cases | {f"{size.memory_step} float32 compiled ahead for {TARGET}": functools.partial(ask_ahead, size)}


def measure_memory(size: Size) -> Row:
    """Reads what the compiler counts for this device, and the peak of the device after some steps."""
    run = build_step_run(size.steps[size.memory_step], "float32")
    state, batch = run.init_state(), put_batch(draw_step_batch(run), run.mesh)
    step = run.jit_train_step().lower(state, batch).compile()
    counted = read_memory(step)
    for _ in range(_STEPS):
        state, _ = jax.block_until_ready(step(state, batch))
    peak = (run.mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use")
    row: Row = {**dataclasses.asdict(counted), "total_bytes": counted.total, "peak_bytes": peak}
    if peak is None:
        return row | {"note": "this device does not tell the peak of its memory"}
    return row | {"peak_of_total": round(peak / counted.total, 3)}


def ask_ahead(size: Size) -> Row:
    """Compiles the same step for a device that need not be here, in a process without an accelerator."""
    if not has_compiler("gpu"):
        return {"note": "not compiled: no GPU compiler here; install the extra compile_gpu"}
    name = next(name for name, own in SIZES.items() if own == size)
    command = [sys.executable, "-m", __name__, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"compiling ahead failed: {lines[-1]}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def compile_ahead(name: SizeName) -> Row:
    """Compiles the step for `TARGET`; the process has not used JAX before."""
    use_no_accelerator()
    case, target = SIZES[name].steps[SIZES[name].memory_step], find_target(TARGET)
    config, schema = build_run_config(build_step_config(case, "float32")), build_step_schema(case)
    memory = compile_train_step(config, schema, target, describe_devices(target)).memory
    return {**dataclasses.asdict(memory), "total_bytes": memory.total}


if __name__ == "__main__":
    print(json.dumps(compile_ahead(sys.argv[1])))  # type: ignore[arg-type]
