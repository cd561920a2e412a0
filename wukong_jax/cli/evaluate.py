"""Evaluate the best state of a run on one split, and print the metrics as one JSON object.

    wukong-jax evaluate --workdir=runs/mine [--split=test] [--data=FOLDER] [--predictions=scores.csv]

--predictions also writes a CSV file with a line per row of the split: `row` (its position in the split, from 0; a split
keeps the order of the raw files), `domain` if there are domains, `<objective>/label` (empty where it was not observed)
and `<objective>/score` of each objective, and `weight` if the rows have weights. The file appears only when it is
complete. The rows must be those that the run was trained on. Several processes evaluate together with the flags of
train; process 0 prints and writes.
"""

import dataclasses
import json
from typing import Annotated, Literal

from wukong_jax.cli.flags import MayBeStore
from wukong_jax.cli.settings import AllowFactories, ProgramFlags, TeamFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags, TeamFlags):
    """The command's flags."""

    workdir: Annotated[str, "folder of the run, or its URL on an object store", MayBeStore()]
    split: Annotated[Literal["train", "validation", "test"], "rows to evaluate"] = "test"
    data: Annotated[str | None, "folder of row blocks, if they were moved after training", MayBeStore()] = None
    predictions: Annotated[str | None, "CSV file to write the labels and scores of all rows to"] = None
    allow_factories: AllowFactories = ()


def run(settings: Settings) -> None:
    """Restores the run, evaluates the split and prints the metrics."""
    from wukong_jax.cli.joining import join_team_of_run
    from wukong_jax.metrics.metric_names import replace_nan_by_none
    from wukong_jax.runs.open_run import open_run
    from wukong_jax.sharding.team import find_team

    join_team_of_run(settings, settings.workdir, settings.allow_factories)
    opened = open_run(settings.workdir, settings.data, settings.allow_factories)
    metrics = opened.evaluate(settings.split, settings.predictions)
    line = {"step": int(opened.state.step), "split": settings.split, **metrics}
    if find_team().is_lead:
        print(json.dumps(replace_nan_by_none(line)))
