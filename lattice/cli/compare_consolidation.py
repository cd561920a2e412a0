"""Train a model for each portfolio and networks for all; keep losses and costs.

    wukong-jax compare_consolidation --config=public/hotel_bookings --alone=lattice --together=lattice,mmoe
        --seeds=0,1,2 --workdir=W --output=docs/results/NAME [--groups=groups.json] [--config.key=value]

`--alone` and `--together` are variants of the config, as in compare_variants. The model of a portfolio reads that
portfolio's rows only, has tables of its own, and a learning rate schedule as much shorter as its rows are fewer; all
score the same test rows. `--groups` adds models of the alone variant for the groups of such a file
(partition_portfolios), without the columns that its rules drop. A model is asked about every row of its domains, and
its embeddings are the ids that these rows hold. Each run resumes by itself; results.json is written again after each
network, and the command can be started again.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import SeedFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SeedFlags):
    """The command's flags."""

    alone: Annotated[str, "variant of the config to train for each portfolio"]
    together: Annotated[tuple[str, ...], "variants to train for all portfolios"]
    groups: Annotated[str, "a groups.json: train the alone variant for each of its groups, too"] = ""
    command: CommandLine


def run(settings: Settings) -> None:
    """Trains alone, together and in groups, compares, writes results.json."""
    from lattice.portfolios.comparison import ConsolidationComparison
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.kept_results import write_results

    networks = {name: build_config(settings, name) for name in settings.together}  # all, before the first trains
    config = build_config(settings, settings.alone)
    comparison = ConsolidationComparison(config, Path(settings.workdir), settings.seeds)
    rows: list[dict[str, Any]] = []
    for row in comparison.compare(settings.alone, networks, settings.groups):
        rows.append(row)
        path = write_results(Path(settings.output), settings.command, rows)
        worse = sum(value for key, value in row.items() if key.endswith("/worse"))
        change = f"NE {row['mean_difference']:+.5f} on average, {worse} of {len(comparison.names)} portfolios worse"
        print(f"{row['variant']}: {change} (in {path})")
