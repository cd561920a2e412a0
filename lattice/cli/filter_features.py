"""Select the features that a smaller model keeps, by their importance (Lattice Filter).

    wukong-jax filter_features --workdir=runs/mine --output=runs/mine/filter --budget=20
    wukong-jax filter_features --workdir=runs/mine --output=runs/mine/filter_10 --budget=10
        --importance=runs/mine/filter/importance.json

As in paper 3.2.2, the importance of a feature for a task is the increase of the task's log loss when its values are
shuffled over the rows of a split. Features are kept by Pareto layers: first those for which no other feature is at
least as important for every task and more important for one. To train a smaller model, use
`--config.data.schema=OUTPUT/schema.json` if the rows come from raw files; otherwise run with --write_rows and use
`--config.data.factory=blocks --config.data.path=OUTPUT/data --config.data.schema=`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from wukong_jax.cli.settings import AllowFactories, ProgramFlags
from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast

_METHODS = {"pareto": "Pareto layers", "weighted_sum": "weighted sum"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ProgramFlags):
    """The command's flags."""

    workdir: Annotated[str, "folder of the run"]
    output: Annotated[str, "folder for the results"]
    budget: Annotated[int, "number of features (columns) to keep", AtLeast(1)]
    method: Annotated[
        Literal["pareto", "weighted_sum"], "selection by Pareto layers, or by a weighted sum of importances (baseline)"
    ] = "pareto"
    tasks: Annotated[
        Literal["objectives", "portfolios"], "tasks whose importances count: objectives, or (domain, objective) pairs"
    ] = "objectives"
    weights: Annotated[Mapping[str, float], "weighted_sum: weights of tasks, 1 for tasks not given"] = (
        dataclasses.field(default_factory=dict)
    )
    standard_errors: Annotated[
        float, "importances below this many standard errors count as 0; 0 keeps all as measured", AtLeast(0)
    ] = 3.0
    split: Annotated[Literal["train", "validation", "test"] | None, "rows to measure on (default: validation)"] = None
    rows: Annotated[int | None, "maximum number of rows to read (default: 65536)", AtLeast(2)] = None
    shuffles: Annotated[int | None, "shuffles of each feature (default: 3)", AtLeast(1)] = None
    seed: Annotated[int, "seed of rows, shuffles and the draw from the last layer", AtLeast(0)] = 0
    importance: Annotated[str | None, "importance.json of an earlier call; select again without measuring"] = None
    axes: Annotated[tuple[str, ...], "two tasks to draw (default: the first two)"] = ()
    write_rows: Annotated[bool, "write row blocks of the kept columns to OUTPUT/data"] = False
    data: Annotated[str | None, "folder of row blocks, if they were moved after training"] = None
    allow_factories: AllowFactories = ()

    def __post_init__(self) -> None:
        """Rejects flags that would have no effect."""
        if self.importance is not None:
            for name in self.measuring:
                raise UserError(f"--{name}: is not read with --importance, which measures nothing; leave it out")

    @property
    def measuring(self) -> dict[str, Any]:
        """The given flags about measuring."""
        given = {name: getattr(self, name) for name in ("split", "rows", "shuffles")}
        return {name: value for name, value in given.items() if value is not None}


def run(settings: Settings) -> None:
    """Restores the run, measures importances, selects features, and writes the results."""
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
    from wukong_jax.runs.console import print_to_stderr
    from wukong_jax.runs.open_run import open_run

    chosen = {field.name: getattr(settings, field.name) for field in dataclasses.fields(FilterSettings)}
    choice = FilterSettings(**chosen)
    shuffling = ShuffleSettings(**settings.measuring, seed=settings.seed)
    measured = load_importance(settings.importance) if settings.importance else None
    opened = open_run(settings.workdir, settings.data, settings.allow_factories)
    schema, output = opened.run.schema, Path(settings.output)
    check_settings(choice, schema)
    if measured is None:
        measured = measure_importance(opened, shuffling, say=print_to_stderr)
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
        print(f"only {selection.important} features matter for some task; the other kept ones are a random choice")
    overridden = sorted(set(opened.run.config.embeddings.fields) & set(dropped))
    if overridden:
        print(f"config.embeddings.fields names dropped columns; remove them: {', '.join(overridden)}")
    print(f"wrote {output}/selection.json, importance.json, schema.json, fronts.png")
