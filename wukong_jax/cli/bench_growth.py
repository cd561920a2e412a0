"""Time the train step as one size grows at a time, beside the growth that is expected.

    wukong-jax bench_growth [--sweeps=batch,width] [--rounds=7] [--output=docs/results/cost_growth]

Wukong of width 16 with two layers of 8 + 8 tokens, 26 fields with tables of 10,000 rows, batch 2048. Each sweep changes
one of batch, width, layers, fields, table_rows and bag (ids of each field); its sizes are timed in turns. Time should
grow as the FLOPs, not at all with the rows of the tables, and at most as the ids. The sweep "lengths" has bags with a
long tail of lengths, padded and laid flat in turns, and tells how full their places are; the sweep "sequences" has
sequences that are not pooled, read by a Lattice network, padded and computed by their lengths.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import ProgramFlags
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast

SweepName = Literal["batch", "width", "layers", "fields", "table_rows", "bag", "lengths", "sequences"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags):
    """The command's flags."""

    sweeps: Annotated[tuple[SweepName, ...], "sizes that grow, one at a time"] = get_args(SweepName)
    rounds: Annotated[int, "turns of each case, of three timed steps", AtLeast(1)] = 7
    output: Annotated[str, "folder for results.json and the picture"] = ""
    command: CommandLine

    def __post_init__(self) -> None:
        """Checks that there are sweeps and that they are distinct."""
        if not self.sweeps or len(set(self.sweeps)) != len(self.sweeps):
            raise UserError(f"--sweeps = {','.join(self.sweeps)!r}: give one or more, none twice")


def run(settings: Settings) -> None:
    """Times the sweeps, prints and writes the results."""
    from wukong_jax.bench.bag_lengths import measure_bag_lengths
    from wukong_jax.bench.growth import SWEEPS, Row, Sizes, Sweep, measure_growth
    from wukong_jax.bench.growth_picture import draw_growth
    from wukong_jax.bench.sequence_lengths import measure_sequence_lengths
    from wukong_jax.files.whole_files import write_bytes_whole
    from wukong_jax.reports.kept_results import write_results

    chosen: dict[str, Sweep] = {name: SWEEPS[name] for name in settings.sweeps if name in SWEEPS}
    measured: dict[str, Sequence[Row]] = dict(
        zip(chosen, measure_growth(chosen, Sizes(), settings.rounds, print), strict=True)
    )
    for name, rows in measured.items():
        print(f"{name}: time has exponent {rows[0]['time_exponent']}, {rows[0]['expected_exponent']} expected")
    by_length = measure_bag_lengths(Sizes(), 3 * settings.rounds, print) if "lengths" in settings.sweeps else []
    if "sequences" in settings.sweeps:
        by_length += measure_sequence_lengths(settings.rounds, print)
    if settings.output:
        output = Path(settings.output)
        rows = [row for rows in (*measured.values(), by_length) for row in rows]
        path = write_results(output, settings.command, rows)
        if measured:
            write_bytes_whole(output / "growth.png", draw_growth(measured))
        print(f"wrote {path}")
