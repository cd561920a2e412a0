"""Time an exported model on one core, beside onnxruntime, and load its server.

    wukong-jax bench_serving [--rounds=3] [--onnx] [--load_seconds=10] [--output=docs/results/serving]

The process uses a single core. Each path (encoded rows, raw rows, rounded tables, onnxruntime) scores 1, 64 and 1,024
rows; the paths take turns. With --load_seconds, a
server in another process (and on all cores) is then asked over the loopback by eight connections without pause, while a
new artefact takes the place of its own.
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast

_CONNECTIONS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    rounds: Annotated[int, "turns of each path and size", AtLeast(1)] = 3
    onnx: Annotated[bool, "also onnxruntime; needs the extra onnx"] = False
    load_seconds: Annotated[float, "how long to load a server; needs the extra serve; 0: not", AtLeast(0)] = 0.0
    output: Annotated[str, "folder for results.json"] = ""
    command: CommandLine


def run(settings: Settings) -> None:
    """Measures, prints and writes the results."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:  # before JAX counts its threads
        os.sched_setaffinity(0, {min(cores)})
    from wukong_jax.bench.serving import describe_memory, draw_raw_rows, measure_serving
    from wukong_jax.bench.serving_load import measure_load
    from wukong_jax.reports.kept_results import write_results
    from wukong_jax.serving.loaded_program import run_on_calling_thread

    run_on_calling_thread()  # as the server does
    if settings.onnx:
        try:
            import jax2onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise UserError(f"--onnx: {error.name} is not installed; install wukong-jax[onnx]") from None
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_serving(Path(folder), settings.rounds, ("float32", "bfloat16", "int8"), settings.onnx)
        memory = {"path": "memory", **describe_memory(Path(folder) / "float32")}
        loads = []
        if settings.load_seconds:
            if cores:
                os.sched_setaffinity(0, cores)
            for size in (1, 64):
                raw = draw_raw_rows(1024)
                loads.append(measure_load(Path(folder) / "float32", raw, _CONNECTIONS, size, settings.load_seconds))
    print(f"{'path':45} {'rows':>6} {'p50 ms':>9} {'p99 ms':>9}  difference")
    for row in rows:
        difference = row["largest_difference"]
        shown = "" if difference is None else f"{difference:.2g}"
        print(f"{row['path']:45} {row['rows']:>6} {row['p50_ms']:>9.4f} {row['p99_ms']:>9.4f}  {shown}")
    grown = memory["private_bytes_after"] - memory["private_bytes_before"]
    print(f"loading {memory['tables_bytes'] / 1e6:.0f} MB of tables takes {grown / 1e6:.0f} MB of memory of its own")
    for load in loads:
        print(
            f"{load['path']}: {load['requests_per_second']} requests/s, p50 {load['p50_ms']} ms, p99 {load['p99_ms']} "
            f"ms; {load['lost']} of {load['requests']} lost while {load['artefacts_seen']} artefacts were served"
        )
    if settings.output:
        print(f"wrote {write_results(Path(settings.output), settings.command, [*rows, memory, *loads])}")
