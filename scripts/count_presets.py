"""Counts the Wukong paper's own sizes beside what it prints, fits its form of a law to its losses, and keeps both.

python scripts/count_presets.py --output=docs/results/scaling_presets
"""

import sys
from pathlib import Path

from wukong_jax.cli.command_line import run_script, take_flag


def main() -> None:
    """Counts every row of Table 5 and fits each model's losses; prints and keeps both tables."""
    arguments = list(sys.argv)
    output = take_flag(arguments, "output")
    if arguments[1:]:
        print((__doc__ or "").strip())
        sys.exit(0 if arguments[1] in ("--help", "-h") else 2)
    from wukong_jax.files.whole_files import write_text_whole
    from wukong_jax.reports.kept_results import write_results
    from wukong_jax.scaling.ladders.presets import TABLE_5, compare_with_printed, fit_printed_losses
    from wukong_jax.scaling.report.report import format_csv

    rows = []
    print(f"{'model':9}{'size':40}{'GFLOP printed':>14}{'counted':>9}{'ratio':>7}{'dense printed':>15}{'counted':>9}")
    for preset in TABLE_5:
        row = compare_with_printed(preset)
        rows.append(row)
        print(
            f"{row['model']:9}{row['size']:40}{row['printed_gflop']:14.2f}{row['counted_gflop']:9.2f}"
            f"{row['gflop_ratio']:7.2f}{row['printed_dense_parameters']:15.2f}{row['counted_dense_parameters']:9.2f}"
        )
    fits = fit_printed_losses()
    for fit in fits:
        law = fit["problem"] or f"-100 + {fit['scale']:.3f} * GFLOP^-{fit['exponent']:.5f}"
        print(f"{fit['model']:9} task {fit['task']}, {fit['points']} sizes: relative loss in percent = {law}")
    kept = write_results(Path(output), "python " + " ".join(sys.argv), rows)
    write_text_whole(Path(output) / "printed_laws.csv", format_csv(list(fits[0]), fits))
    print(f"kept: {kept}")


if __name__ == "__main__":
    run_script(main)
