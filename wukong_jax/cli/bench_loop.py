"""Time whole training from row blocks, with evaluations and checkpoints, against the bare step.

    wukong-jax bench_loop [--steps=500] [--rounds=2] [--memory_steps=10000] [--output=docs/results/loop]

Trains the model of bench_growth (batch 2048) as `wukong-jax train` does, in turns with its bare step on one batch. Then
trains a tiny model for `memory_steps` steps and prints the memory of the process along the way.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import ProgramFlags
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags):
    """The command's flags."""

    steps: Annotated[int, "steps of a run", AtLeast(1)] = 500
    evaluate_every: Annotated[int, "steps between evaluations", AtLeast(60)] = 150
    checkpoint_every: Annotated[int, "steps between checkpoints", AtLeast(60)] = 100
    rounds: Annotated[int, "runs; 0: none, only the memory", AtLeast(0)] = 2
    memory_steps: Annotated[int, "steps of the tiny model; 0: none", AtLeast(0)] = 10_000
    output: Annotated[str, "folder for results.json"] = ""
    command: CommandLine

    def __post_init__(self) -> None:
        """Checks that something is measured, and that the steps contain what is measured."""
        if not self.rounds and not self.memory_steps:
            raise UserError("--rounds = 0, --memory_steps = 0: nothing is measured; give one of them")
        counted = self.steps - max(self.evaluate_every, self.checkpoint_every)
        if self.rounds and counted < 200:
            raise UserError(
                f"--steps = {self.steps}: at least 200 more than --evaluate_every and --checkpoint_every, whose first "
                "is not counted"
            )
        if self.memory_steps % 10:
            raise UserError(f"--memory_steps = {self.memory_steps}: a multiple of 10, as memory is read ten times")


def run(settings: Settings) -> None:
    """Measures, prints and writes the results."""
    from wukong_jax.bench.growth import Sizes
    from wukong_jax.bench.loop import LoopPlan, measure_loop, measure_memory
    from wukong_jax.reports.kept_results import write_results

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if settings.memory_steps:
            every = settings.memory_steps // 10
            tiny = Sizes(batch=256, width=8, layers=1, fields=8, table_rows=1000)
            plan = LoopPlan(tiny, settings.memory_steps + 1, every, every, 50_000, 5_000)
            at_steps = [every * (i + 1) for i in range(10)]
            rows.append(measure_memory(Path(folder) / "memory", plan, at_steps))
            print(json.dumps(rows[-1]))
        if settings.rounds:
            plan = LoopPlan(
                Sizes(), settings.steps, settings.evaluate_every, settings.checkpoint_every, 1_000_000, 80_000
            )
            rows.append(measure_loop(Path(folder) / "loop", plan, settings.rounds))
            print(json.dumps(rows[-1]))
    if settings.output:
        print(f"wrote {write_results(Path(settings.output), settings.command, rows)}")
