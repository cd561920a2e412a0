"""Choose which features a smaller model keeps, by their importances (Lattice Filter).

    wukong-jax filter_features --workdir=runs/mine --output=runs/mine/filter --budget=20
    wukong-jax filter_features --workdir=runs/mine --output=runs/mine/filter_10 --budget=10
        --importance=runs/mine/filter/importance.json

Paper 3.2.2: each feature's values are shuffled over rows of a split, and the rise of each task's log loss is its
importance; features that no other is at least as important for every task as, and more for one, are kept first, layer
by layer. Then train with `--config.data.schema=OUTPUT/schema.json` where the rows come from raw files, or, with
--write_rows, with `--config.data.factory=blocks --config.data.path=OUTPUT/data --config.data.schema=`.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast

_METHODS = {"pareto": "Pareto layers", "weighted_sum": "weighted sum"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    workdir: Annotated[str, "the run's folder"]
    output: Annotated[str, "the folder of what is found"]
    budget: Annotated[int, "features (columns) to keep", AtLeast(1)]
    method: Annotated[Literal["pareto", "weighted_sum"], "layers, or the weighted sum that they are held against"] = (
        "pareto"
    )
    tasks: Annotated[
        Literal["objectives", "portfolios"], "what importances are compared over: objectives, or those of each domain"
    ] = "objectives"
    weights: Annotated[Mapping[str, float], "of tasks, for weighted_sum; the others weigh 1"] = dataclasses.field(
        default_factory=dict
    )
    standard_errors: Annotated[
        float, "importances below so many of their standard errors count as 0; 0: all as measured", AtLeast(0)
    ] = 3.0
    split: Annotated[Literal["train", "validation", "test"] | None, "rows to measure on (default: validation)"] = None
    rows: Annotated[int | None, "rows of the split to read at most (default: 65536)", AtLeast(2)] = None
    shuffles: Annotated[int | None, "shuffles of each feature (default: 3)", AtLeast(1)] = None
    seed: Annotated[int, "of rows, shuffles and the last layer's draw", AtLeast(0)] = 0
    importance: Annotated[str | None, "importance.json of an earlier call: choose again, measure nothing"] = None
    axes: Annotated[tuple[str, ...], "two tasks to draw (default: the first two)"] = ()
    write_rows: Annotated[bool, "write OUTPUT/data: row blocks of the kept columns"] = False
    data: Annotated[str | None, "row blocks, if they have moved since training"] = None

    def __post_init__(self) -> None:
        """Refuses flags that would not be read."""
        if self.importance is not None:
            for name in self.measuring:
                raise UserError(f"--{name}: is not read with --importance, which measures nothing; leave it out")

    @property
    def measuring(self) -> dict[str, Any]:
        """The flags of measuring that were given."""
        given = {name: getattr(self, name) for name in ("split", "rows", "shuffles")}
        return {name: value for name, value in given.items() if value is not None}


def run(settings: Settings) -> None:
    """Restores, measures, chooses, writes."""
    from lattice.filter.feature_filter import (
        FilterSettings,
        check_settings,
        choose_features,
        reduce_schema,
        write_filter,
    )
    from lattice.filter.importance_file import load_importance
    from lattice.filter.permutation_importance import ShuffleSettings, check_features, measure_importance
    from lattice.filter.reduced_rows import write_reduced_rows
    from wukong_jax.runs.open_run import open_run

    chosen = {field.name: getattr(settings, field.name) for field in dataclasses.fields(FilterSettings)}
    choice = FilterSettings(**chosen)
    shuffling = ShuffleSettings(**settings.measuring, seed=settings.seed)
    measured = load_importance(settings.importance) if settings.importance else None
    opened = open_run(settings.workdir, settings.data)
    schema, output = opened.run.schema, Path(settings.output)
    check_settings(choice, schema)
    if measured is None:
        measured = measure_importance(opened, shuffling, say=functools.partial(print, file=sys.stderr))
    check_features(measured, schema)
    selection = choose_features(measured, choice)
    kept, dropped = selection.kept_names, selection.dropped_names
    counted = f"{choice.budget} of {len(selection.features)} features"
    title = f"{opened.run.config.name}: {counted} by {_METHODS[choice.method]}"
    write_filter(measured, selection, choice, schema, output, title, settings.axes)
    if settings.write_rows:
        write_reduced_rows(opened.data, reduce_schema(schema, kept), output / "data")
    print(f"kept {len(kept)}: {', '.join(kept)}\ndropped {len(dropped)}: {', '.join(dropped) or 'none'}")
    if choice.budget > selection.important:
        print(f"only {selection.important} features are of importance for some task: chance chose the rest of the kept")
    overridden = sorted(set(opened.run.config.embeddings.fields) & set(dropped))
    if overridden:
        print(f"config.embeddings.fields names dropped columns, leave them out: {', '.join(overridden)}")
    print(f"wrote {output}/selection.json, importance.json, schema.json, fronts.png")
