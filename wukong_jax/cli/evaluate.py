"""Evaluate the best state of a run on one split, and print the metrics as one JSON object.

wukong-jax evaluate --workdir=runs/mine [--split=test] [--data=FOLDER]
"""

import dataclasses
import json
from typing import Annotated, Literal

from wukong_jax.cli.settings import AllowFactories


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    workdir: Annotated[str, "folder of the run"]
    split: Annotated[Literal["train", "validation", "test"], "rows to evaluate"] = "test"
    data: Annotated[str | None, "folder of row blocks, if they were moved after training"] = None
    allow_factories: AllowFactories = ()


def run(settings: Settings) -> None:
    """Restores the run, evaluates the split and prints the metrics."""
    from wukong_jax.metrics.metric_names import replace_nan_by_none
    from wukong_jax.runs.open_run import open_run

    opened = open_run(settings.workdir, settings.data, settings.allow_factories)
    line = {"step": int(opened.state.step), "split": settings.split, **opened.evaluate(settings.split)}
    print(json.dumps(replace_nan_by_none(line)))
