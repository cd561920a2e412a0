"""Train a model, or go on with the run that the folder holds.

    wukong-jax train --config=quickstart --workdir=runs/mine [--config.training.steps=1000]

Leaves config.json, metrics.jsonl, summary.json, calibration.json, report.html, checkpoints/ and tensorboard/ in
the folder. Exit codes: 0 done, 1 failed, 2 bad usage, 143 saved on SIGTERM (run it again to go on).
"""

import functools
import sys

from wukong_jax.cli.settings import RunFlags as Settings


def run(settings: Settings) -> None:
    """Trains, prints the result."""
    from wukong_jax.api import train
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.result_table import format_results

    say = functools.partial(print, file=sys.stderr, flush=True)
    print(format_results(train(build_config(settings), settings.workdir, say=say)))
