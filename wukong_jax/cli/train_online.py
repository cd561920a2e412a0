"""Train on a log day by day: score each day with what was known before it, then train on it.

    wukong-jax train_online --config=online --workdir=runs/clicks --config.data.path=log/
        --config.data.schema=clicks.json --rows=100000

The log is raw files, read in the order of their names, with rows in the order of time. Columns with a vocabulary have
tables of --rows rows: a value gets a row after min_count sightings (of its column in the schema), and loses it to
others when the table is full. What is known after each day is saved; the same command goes on with new files. Writes
config.json, online.json, metrics.jsonl, summary.json, report.html, data/ and checkpoints/ to the folder. Exit codes and
several processes as with train; each process reads the whole log.
"""

import dataclasses
from typing import Annotated

from wukong_jax.cli.settings import RunFlags, TeamFlags
from wukong_jax.online.settings import OnlineSettings
from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunFlags, TeamFlags):
    """The command's flags."""

    online: OnlineSettings
    wait: Annotated[float, "seconds to wait for new files after the last one", AtLeast(0)] = 0.0


def run(settings: Settings) -> None:
    """Trains on the log and prints the metrics over all days."""
    from wukong_jax.cli.joining import join_team
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.online.train_online import train_online
    from wukong_jax.reports.run_report import write_report
    from wukong_jax.runs.console import print_to_stderr
    from wukong_jax.sharding.team import find_team

    config = build_config(settings)
    join_team(settings, config.training.stall_limit)
    summary = train_online(config, settings.online, settings.workdir, print_to_stderr, wait=settings.wait)
    if not find_team().is_lead:
        return
    scores = summary.get("progressive")
    if scores:
        print(
            f"{summary['periods']} periods, {scores['rows']:,} rows scored before they were trained on: log loss "
            f"{scores['log_loss']:.5f}, AUC {scores['auc']:.5f}, calibration {scores['calibration']:.3f}"
        )
    print(f"report: {write_report(settings.workdir)}")
