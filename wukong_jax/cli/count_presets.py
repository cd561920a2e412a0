"""Count the sizes of the Wukong paper's models, and fit scaling laws to its printed losses.

wukong-jax count_presets --output=docs/results/scaling_presets
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import CommandLine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    output: Annotated[str, "folder for results.json and printed_laws.csv"]
    command: CommandLine


def run(settings: Settings) -> None:
    """Counts every row of Table 5, fits a law to each model's losses, and prints and writes both tables."""
    from wukong_jax.files.whole_files import write_text_whole
    from wukong_jax.reports.kept_results import write_results
    from wukong_jax.scaling.ladders.presets import TABLE_5, compare_with_printed, fit_printed_losses
    from wukong_jax.scaling.report.report import format_csv

    rows = [compare_with_printed(preset) for preset in TABLE_5]
    print(f"{'model':9}{'size':40}{'GFLOP printed':>14}{'counted':>9}{'ratio':>7}{'dense printed':>15}{'counted':>9}")
    for row in rows:
        print(
            f"{row['model']:9}{row['size']:40}{row['printed_gflop']:14.2f}{row['counted_gflop']:9.2f}"
            f"{row['gflop_ratio']:7.2f}{row['printed_dense_parameters']:15.2f}{row['counted_dense_parameters']:9.2f}"
        )
    fits = fit_printed_losses()
    for fit in fits:
        law = fit["problem"] or f"-100 + {fit['scale']:.3f} * GFLOP^-{fit['exponent']:.5f}"
        print(f"{fit['model']:9} task {fit['task']}, {fit['points']} sizes: relative loss in percent = {law}")
    kept = write_results(Path(settings.output), settings.command, rows)
    write_text_whole(Path(settings.output) / "printed_laws.csv", format_csv(list(fits[0]), fits))
    print(f"kept: {kept}")
