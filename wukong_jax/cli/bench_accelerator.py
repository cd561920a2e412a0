"""Check and measure an accelerator in stages, in less than eight minutes.

    wukong-jax bench_accelerator [--output=docs/results/accelerator] [--stages=steps,loop] [--size=tiny]

Stages: the machine's facts; train steps compared with the CPU's; tests of the checkout; embeddings at FBGEMM's
published setting; steps of three sizes in float32 and bfloat16, with their share of plain products' speed; the memory
of a step against the compiler's count; the train loop from row blocks against the bare step. Each is a process of its
own with a time limit. What fails is told in its row, and the rest still runs; the exit code is then 1. --output gets
results.json, which is written after each stage. --size=tiny tries everything on a CPU; its numbers mean nothing.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, get_args

from wukong_jax.cli.flags import CommandLine
from wukong_jax.errors import UserError

# As `bench.accelerator.stages.StageName`, whose import takes long.
StageName = Literal["machine", "correctness", "tests", "embeddings", "steps", "memory", "loop"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    size: Annotated[Literal["full", "tiny"], "full for an accelerator, tiny to try the command on a CPU"] = "full"
    stages: Annotated[tuple[StageName, ...], "stages to run"] = get_args(StageName)
    output: Annotated[str, "folder that gets results.json"] = ""
    command: CommandLine

    def __post_init__(self) -> None:
        """Refuses to run nothing."""
        if not self.stages:
            raise UserError("--stages = '': none given; name at least one")


def run(settings: Settings) -> None:
    """Runs the stages, prints and writes the results.

    Raises:
      UserError: a stage failed.
    """
    from wukong_jax.bench.accelerator.report import find_machine, format_table, list_failed
    from wukong_jax.bench.accelerator.sizes import Row
    from wukong_jax.bench.accelerator.stages import run_stages
    from wukong_jax.reports.kept_results import write_results

    def write(rows: list[Row]) -> None:
        print(f"{rows[-1]['stage']}: {rows[-1]['seconds']} s", flush=True)
        if settings.output:
            write_results(Path(settings.output), settings.command, rows, machine=find_machine(rows))

    rows = run_stages(settings.stages, settings.size, write)
    print(format_table(rows))
    failed = list_failed(rows)
    if failed:
        raise UserError(f"stages {', '.join(failed)}: failed in part or as a whole; their rows above say why")
