"""Predict probabilities for the rows of a raw file, and write them to a CSV file.

    wukong-jax predict --workdir=runs/mine --input=rows.csv --output=scores.csv

The input has the format of the run's raw training files (for generated data, that of the schema of the row blocks).
Where the run's rows were merged of several data sets (merge_datasets), --data_set names the one whose format it has.
Labels, timestamp, group and weight are not read, and may be absent. The output has a header with the objectives' names,
then one line per row in input order. The file appears only when it is complete. Several processes predict together with
the flags of train: each reads all rows, and computes its part of every batch; process 0 writes.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from wukong_jax.cli.flags import MayBeStore
from wukong_jax.cli.settings import AllowFactories, ProgramFlags, TeamFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags, TeamFlags):
    """The command's flags."""

    workdir: Annotated[str, "folder of the run, or its URL on an object store", MayBeStore()]
    input: Annotated[str, "raw file in the format of the training files"]
    output: Annotated[str, "CSV file of probabilities to write"]
    data: Annotated[
        str | None, "folder of row blocks, whose vocabularies are used, if they were moved after training", MayBeStore()
    ] = None
    data_set: Annotated[str, "of merged data sets, the one whose raw rows the input has"] = ""
    allow_factories: AllowFactories = ()


def run(settings: Settings) -> None:
    """Restores the run, predicts the rows and writes the file."""
    from wukong_jax.cli.joining import join_team_of_run
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.runs.prediction import predict_file
    from wukong_jax.sharding.team import find_team

    join_team_of_run(settings, settings.workdir, settings.allow_factories)
    opened = open_run(settings.workdir, settings.data, settings.allow_factories)
    rows = predict_file(opened, Path(settings.input), Path(settings.output), settings.data_set)
    if find_team().is_lead:
        print(f"wrote {rows:,} rows to {settings.output}")
