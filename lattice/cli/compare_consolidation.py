"""Compare one model per portfolio with networks for all portfolios, by losses and costs.

    wukong-jax compare_consolidation --config=public/hotel_bookings --alone=lattice --together=lattice,mmoe
        --seeds=0,1,2 --workdir=W --output=docs/results/NAME [--groups=groups.json] [--config.key=value]

`--alone` and `--together` are variants of the config, as in compare_variants. The model of a portfolio reads only that
portfolio's rows, has separate tables, and a learning-rate schedule shortened in proportion to its rows. All models are
tested on the same rows. `--groups` also trains the alone variant for each group of a file of partition_portfolios,
without the columns that its rules drop, and with the parts untied that it names. A model must score every row of its
domains, and its embedding lookups are the ids of these rows. The command can be stopped at any time and started again:
runs resume, and results.json is updated after each network.
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
    groups: Annotated[str, "groups.json; also train the alone variant for each of its groups"] = ""
    command: CommandLine


def run(settings: Settings) -> None:
    """Trains portfolios alone, together and in groups, and writes results.json."""
    from lattice.portfolios.comparison import ConsolidationComparison
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.metrics.metric_names import format_metric
    from wukong_jax.reports.kept_results import write_results

    networks = {
        name: build_config(settings, name) for name in settings.together
    }  # builds all before training the first
    config = build_config(settings, settings.alone)
    comparison = ConsolidationComparison(config, Path(settings.workdir), settings.seeds)
    rows: list[dict[str, Any]] = []
    for row in comparison.compare(settings.alone, networks, settings.groups):
        rows.append(row)
        path = write_results(Path(settings.output), settings.command, rows)
        worse = sum(value for key, value in row.items() if key.endswith("/worse"))
        mean = format_metric(row["mean_difference"], 5, sign="+")
        among = f"{row['compared_portfolios']} of {len(comparison.names)} portfolios"
        change = f"NE {mean} on average over {among}, {worse} worse"
        print(f"{row['variant']}: {change} (in {path})")
