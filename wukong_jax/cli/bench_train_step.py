"""Time the train step with tables of several sizes, or against the same network in PyTorch.

    wukong-jax bench_train_step [--output=FILE.json] [--rows=100000,10000000] [--optimizer=rowwise_adagrad]
    wukong-jax bench_train_step --peer [--cases=wukong_s,wukong_m,wukong_l] [--output=FILE.json]

The data has 13 dense and 26 categorical columns (Zipf 1.2). Without --peer, the model is Wukong with two layers of
16 + 16 tokens of width 16, and the sizes, which should not affect the step, are timed in turns.

With --peer, each case is also built in PyTorch, eager and compiled, over FBGEMM's tables on the CPU, from the same
weights and rows. If the losses of the first steps are equal, the steps are timed in turns. Both packages come with
pip install 'wukong-jax[peers]'. A sequence in Lattice and the towers of DMT have no twin: their step is timed beside
the same model without them, and the ratio of times is compared with that of FLOPs.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal, get_args

from wukong_jax.cli.flags import CommandLine
from wukong_jax.errors import UserError
from wukong_jax.idle_options import refuse_idle
from wukong_jax.ranges import AtLeast

PEER_ROWS = 1_000_000
Case = Literal[
    "wukong_s",
    "wukong_m",
    "wukong_l",
    "dlrm",
    "dcnv2",
    "masknet",
    "xdeepfm",
    "lattice",
    "lattice_events",
    "towers_dlrm",
    "towers_dcn",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    rows: Annotated[tuple[int, ...], "sizes to time, as total rows of all tables", AtLeast(52)] = (100_000, 10_000_000)
    batch: Annotated[int, "rows of a batch", AtLeast(1)] = 8192
    optimizer: Annotated[Literal["sgd", "adagrad", "rowwise_adagrad", "lazy_adam"], "row optimizer of the tables"] = (
        "rowwise_adagrad"
    )
    repeats: Annotated[int, "timed steps per size or case", AtLeast(1)] = 25
    peer: Annotated[bool, "time the step against the same network in PyTorch over FBGEMM's tables"] = False
    cases: Annotated[tuple[Case, ...], "models to time"] = get_args(Case)
    output: Annotated[str, "JSON file to write"] = ""
    command: CommandLine

    def __post_init__(self) -> None:
        """Refuses flags of the other way of timing."""
        for name in ("rows", "batch", "optimizer"):
            refuse_idle(self, name, self.peer, f"with --peer, whose cases fix it (rows: {PEER_ROWS})", "--")
        refuse_idle(self, "cases", not self.peer, "without --peer", "--")
        if not self.cases:
            raise UserError("--cases = '': none given; name at least one")


def run(settings: Settings) -> None:
    """Times the sizes or cases, prints and writes the results."""
    from wukong_jax.bench.machine import describe_machine
    from wukong_jax.bench.peers.report import compare_cases
    from wukong_jax.bench.train_step import measure_step

    if settings.peer:
        report = {"command": settings.command, **compare_cases(settings.cases, PEER_ROWS, settings.repeats)}
    else:
        rows = measure_step(settings.rows, settings.batch, settings.optimizer, settings.repeats)
        for row in rows:
            print(json.dumps(row))
        print(f"last over first, medians: {rows[-1]['median_ms'] / rows[0]['median_ms']:.2f}")
        report = {"machine": describe_machine(), "optimizer": settings.optimizer, "rows": rows}
    if settings.output:
        Path(settings.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
