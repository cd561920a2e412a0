"""Train a config with several seeds, and keep the mean and spread of its metrics.

    wukong-jax repeat_run --config=F --workdir=W --seeds=0,1,2 --output=docs/results/NAME [--config.key=value]

The folder of each run is W/seed_<n>. If the command is stopped and started again, it resumes the runs. The pictures of
the first seed's run are kept, too.
"""

import dataclasses
import shutil
from pathlib import Path

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import SeedFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SeedFlags):
    """The command's flags."""

    command: CommandLine


def run(settings: Settings) -> None:
    """Trains with every seed and writes results.json."""
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.kept_results import format_mean, summarise_seeds, write_results
    from wukong_jax.scaling.repeats import train_seeds

    row = summarise_seeds(train_seeds(build_config(settings), settings.workdir, settings.seeds))
    output = Path(settings.output)
    for picture in Path(f"{settings.workdir}/seed_{settings.seeds[0]}/pictures").glob("*.png"):
        output.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, output)
    path = write_results(output, settings.command, [row])
    for metric in ("auc", "log_loss"):
        if f"test_{metric}" in row:
            print(f"test {metric}: {format_mean(row, f'test_{metric}', 6)}")
    print(f"wrote {path}")
