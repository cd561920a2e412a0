"""Compare towers grouped by the tower partitioner (TP) with strided towers.

    wukong-jax compare_groupings --config=F --data=NAME --variant=M --seeds=0,1,2 --workdir=W
        --output=docs/results/dmt_partitioner [--config.key=value]

Config `F:NAME/flat` is trained once, and its columns are partitioned with both strategies (coherent and diverse). Then
`F:NAME/M` is trained with every seed, with strided towers and with each partition. Runs resume. Rows of other data sets
in results.json are kept.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Any

from wukong_jax.cli.flags import CommandLine
from wukong_jax.cli.settings import SeedFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SeedFlags):
    """The command's flags."""

    data: Annotated[str, "data set: first part of the config's variants"]
    variant: Annotated[str, "model with towers: second part of the config's variants"]
    command: CommandLine


def run(settings: Settings) -> None:
    """Trains the flat model, partitions it, trains the models with towers, and writes results.json."""
    from dmt.partition.groupings import compare_groupings
    from wukong_jax.cli.run_config import build_config
    from wukong_jax.reports.kept_results import format_mean, write_results

    output = Path(settings.output)
    rows = _read_other_rows(output / "results.json", settings.data)
    build = functools.partial(build_config, settings)
    workdir = Path(settings.workdir)
    for row in compare_groupings(build, settings.data, settings.variant, workdir, settings.seeds, output):
        rows.append(row)
        write_results(output, settings.command, rows)
        print(f"{row['grouping']}: test AUC {format_mean(row, 'test_auc')}")


def _read_other_rows(path: Path, data: str) -> list[dict[str, Any]]:
    """Reads the rows of results.json that belong to other data sets."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return [row for row in rows if row.get("data") != data]
