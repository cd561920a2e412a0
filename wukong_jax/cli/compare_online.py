"""Compare id maps with plain hashing on a log: log loss by day, and rows of tables.

    wukong-jax compare_online --config=online --config.data.path=log/ --config.data.schema=clicks.json --columns=item
        --variants=least_recent:1000,hash:1000,hash:10000 --workdir=runs/ids --output=docs/results/online --name=clicks

Adds the rows of --name to results.json in the output folder, and draws NAME.png. Runs can be stopped and started again.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import SeedFlags
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SeedFlags):
    """The command's flags."""

    name: Annotated[str, "name of the log, in results.json and of the picture"]
    columns: Annotated[tuple[str, ...], "columns with a vocabulary whose tables are limited"]
    variants: Annotated[tuple[str, ...], "kind:rows; kinds are least_recent, least_frequent (id maps) and hash"]
    other_rows: Annotated[int, "rows of the tables of other columns", AtLeast(2)] = 10_000
    period: Annotated[Literal["hour", "day", "file"], "rows that are scored and trained on together"] = "day"
    command: CommandLine


def run(settings: Settings) -> None:
    """Trains all variants, and writes results and picture."""
    from wukong_jax.bench.online import Variant, format_table, summarise_variants, train_variant
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.files.whole_files import write_bytes_whole
    from wukong_jax.reports.kept_results import write_results
    from wukong_jax.reports.period_pictures import draw_runs
    from wukong_jax.runs.console import print_to_stderr

    variants = [Variant.parse(text) for text in settings.variants]
    config, output = build_config(settings), Path(settings.output) / settings.name
    rows: list[dict[str, Any]] = []
    drawn: dict[str, list[Mapping[str, Any]]] = {}
    for seed in settings.seeds:
        for variant in variants:
            workdir = Path(settings.workdir) / f"{variant.kind}_{variant.rows}_seed{seed}"
            row, lines = train_variant(
                dataclasses.replace(config, seed=seed),
                variant,
                settings.columns,
                settings.other_rows,
                settings.period,
                workdir,
                print_to_stderr,
            )
            rows.append({"log": settings.name, "seed": seed, **row})
            drawn.setdefault(variant.name, lines)
            write_results(output, settings.command, summarise_variants(rows))
            write_bytes_whole(output / "periods.png", draw_runs(drawn, f"{settings.name}, seed {settings.seeds[0]}"))
    print(format_table(summarise_variants(rows)))
