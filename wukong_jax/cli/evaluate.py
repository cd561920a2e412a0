"""Score a split with the best state of a run: one JSON object on stdout.

wukong-jax evaluate --workdir=runs/mine [--split=test] [--data=FOLDER]
"""

import dataclasses
import json
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    workdir: Annotated[str, "the run's folder"]
    split: Annotated[Literal["train", "validation", "test"], "which rows to score"] = "test"
    data: Annotated[str | None, "row blocks, if they have moved since training"] = None


def run(settings: Settings) -> None:
    """Restores, scores, prints."""
    from wukong_jax.metrics.metric_names import replace_nan_by_none
    from wukong_jax.runs.open_run import open_run

    opened = open_run(settings.workdir, settings.data)
    line = {"step": int(opened.state.step), "split": settings.split, **opened.evaluate(settings.split)}
    print(json.dumps(replace_nan_by_none(line)))
