"""Train a model, or resume the run in the folder.

    wukong-jax train --config=quickstart --workdir=runs/mine [--config.training.steps=1000]

Writes config.json, metrics.jsonl, summary.json, calibration.json, report.html, checkpoints/ and tensorboard/ to the
folder. Several processes train together if each is started with --coordinator, --processes and --process, or by a
cluster's launcher; launch_local starts them on one machine. Exit codes: 0 done, 1 failed, 2 bad usage, 143 saved after
SIGTERM (run the command again to resume).
"""

import dataclasses
from typing import Annotated

from wukong_jax.cli.flags import MayBeStore
from wukong_jax.cli.settings import RunFlags, TeamFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunFlags, TeamFlags):
    """Flags of the command."""

    workdir: Annotated[
        str,
        "folder of the run, or its URL on an object store, such as gs://bucket/runs/mine; created if missing, else the "
        "run in it is resumed",
        MayBeStore(),
    ]


def run(settings: Settings) -> None:
    """Trains the run and prints its results."""
    from wukong_jax.api import train
    from wukong_jax.cli.joining import join_team
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.result_table import format_results
    from wukong_jax.sharding.team import find_team

    config = build_config(settings)
    join_team(settings, config.training.stall_limit)
    summary = train(config, settings.workdir)
    if find_team().is_lead:
        print(format_results(summary))
