"""Time an exported model on one core: encoded rows, raw rows, rounded tables, and onnxruntime.

    wukong-jax bench_serving [--rounds=3] [--onnx] [--output=docs/results/serving]

The process uses a single core. Each path scores 1, 64 and 1,024 rows; the paths take turns.
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    rounds: Annotated[int, "turns of each path and size", AtLeast(1)] = 3
    onnx: Annotated[bool, "also onnxruntime; needs the extra onnx"] = False
    output: Annotated[str, "folder for results.json"] = ""
    command: CommandLine


def run(settings: Settings) -> None:
    """Measures, prints and writes the results."""
    if hasattr(os, "sched_setaffinity"):  # before JAX counts its threads
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from wukong_jax.bench.serving import describe_memory, measure_serving
    from wukong_jax.reports.kept_results import write_results

    if settings.onnx:
        try:
            import jax2onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise UserError(f"--onnx: {error.name} is not installed; install wukong-jax[onnx]") from None
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_serving(Path(folder), settings.rounds, ("float32", "bfloat16", "int8"), settings.onnx)
        rows.append({"path": "memory", **describe_memory(Path(folder) / "float32")})
    print(f"{'path':45} {'rows':>6} {'p50 ms':>9} {'p99 ms':>9}  difference")
    for row in rows[:-1]:
        difference = row["largest_difference"]
        shown = "" if difference is None else f"{difference:.2g}"
        print(f"{row['path']:45} {row['rows']:>6} {row['p50_ms']:>9.4f} {row['p99_ms']:>9.4f}  {shown}")
    grown = rows[-1]["private_bytes_after"] - rows[-1]["private_bytes_before"]
    print(f"loading {rows[-1]['tables_bytes'] / 1e6:.0f} MB of tables takes {grown / 1e6:.0f} MB of memory of its own")
    if settings.output:
        print(f"wrote {write_results(Path(settings.output), settings.command, rows)}")
