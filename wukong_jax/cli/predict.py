"""Score the rows of a raw file: probabilities in input order, one line a row.

    wukong-jax predict --workdir=runs/mine --input=rows.csv --output=scores.csv

The input has the layout of the run's raw training files (a generated data set: its row blocks' schema); labels may be
missing. The output has a header with the objectives' names. It is written aside and renamed when it is whole.
"""

import dataclasses
from pathlib import Path
from typing import Annotated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    workdir: Annotated[str, "the run's folder"]
    input: Annotated[str, "a raw file, as the run was trained on"]
    output: Annotated[str, "the file of probabilities to write"]
    data: Annotated[str | None, "row blocks (for their vocabularies), if they have moved since training"] = None


def run(settings: Settings) -> None:
    """Restores, scores, writes."""
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.runs.prediction import predict_file

    opened = open_run(settings.workdir, settings.data)
    rows = predict_file(opened, Path(settings.input), Path(settings.output))
    print(f"wrote {rows:,} rows to {settings.output}")
