"""Train a model, or resume the run in the folder.

    wukong-jax train --config=quickstart --workdir=runs/mine [--config.training.steps=1000]

Writes config.json, metrics.jsonl, summary.json, calibration.json, report.html, checkpoints/ and tensorboard/ to the
folder. Exit codes: 0 done, 1 failed, 2 bad usage, 143 saved after SIGTERM (run the command again to resume).
"""

from wukong_jax.cli.settings import RunFlags as Settings


def run(settings: Settings) -> None:
    """Trains the run and prints its results."""
    from wukong_jax.api import train
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.result_table import format_results

    print(format_results(train(build_config(settings), settings.workdir)))
