"""Trains a model, or goes on with the run that the folder holds.

    python scripts/train.py --config=configs/quickstart.py --workdir=runs/mine [--config.training.steps=1000]

Leaves config.json, metrics.jsonl, summary.json, calibration.json, report.html, checkpoints/ and tensorboard/ in
the folder. Exit codes: 0 done, 1 failed, 2 bad usage, 143 saved on SIGTERM (run it again to go on).
"""

import sys

from wukong_jax.cli.command_line import parse_config_flags, run_script


def main() -> None:
    """Parses, trains, prints the result."""
    config, workdir = parse_config_flags(sys.argv, __doc__ or "")
    from wukong_jax.api import train
    from wukong_jax.reports.result_table import format_results

    summary = train(config, workdir, say=lambda text: print(text, file=sys.stderr, flush=True))
    print(format_results(summary))


if __name__ == "__main__":
    run_script(main)
