"""Feature selection by importance: chooses the features to keep and writes the smaller schema.

    DIR/importance.json   importance of each feature for each task, its standard error, the tasks' losses
    DIR/selection.json    layer of each feature, whether it is kept, and why
    DIR/schema.json       the schema without the dropped columns, for config.data.schema
    DIR/fronts.png        plot of the layers over two of the tasks

Lattice Filter (paper 3.2.2). Choices of ours that the paper leaves open: the tasks are the objectives, or optionally
the portfolios; and importances within their noise count as 0 (see `clear_noise`). Useless features are thus equal and
share the last layer, so the paper's random draw is among them.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from lattice.filter.importance_file import save_importance
from lattice.filter.pareto_selection import (
    Layers,
    check_budget,
    check_importance,
    compute_layers,
    select_pareto,
    select_weighted_sum,
)
from lattice.filter.permutation_importance import RunImportance, TaskImportance, list_features
from lattice.filter.pictures import draw_fronts
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_bytes_whole, write_text_whole
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.ranges import AtLeast, Finite, check_ranges
from wukong_jax.schema import CategoricalColumn, Schema, schema_to_json

Method = Literal["pareto", "weighted_sum"]
Tasks = Literal["objectives", "portfolios"]


@dataclasses.dataclass(frozen=True)
class FilterSettings:
    """Settings of the selection."""

    budget: int  # number of features to keep
    method: Method = "pareto"
    tasks: Tasks = "objectives"  # tasks over which importances are compared
    # weighted_sum: task weights, default 1
    weights: Mapping[str, Annotated[float, Finite(0)]] = dataclasses.field(default_factory=dict)
    seed: Annotated[int, AtLeast(0)] = 0  # of the draw from the last layer, or among equal sums
    # importances below this many standard errors count as 0; 0: use all as measured
    standard_errors: Annotated[float, Finite(0)] = 3.0

    def __post_init__(self) -> None:
        """Refuses what is out of range or would have no effect."""
        check_ranges(self)
        if self.weights and self.method != "weighted_sum":
            raise UserError(f"weights = {dict(self.weights)}: only method 'weighted_sum' has them; leave them out")


@dataclasses.dataclass(frozen=True)
class FeatureSelection:
    """The kept and dropped features, with reasons."""

    features: tuple[str, ...]  # F names
    kept: np.ndarray  # [F] bool
    reasons: tuple[str, ...]  # F texts
    layers: Layers  # over the tasks, for either method
    score: np.ndarray | None  # [F] float64, for method weighted_sum
    tasks: TaskImportance  # the compared tasks; importances within noise are 0

    @property
    def kept_names(self) -> tuple[str, ...]:
        """Names of the kept features, in the schema's order."""
        return tuple(name for name, kept in zip(self.features, self.kept, strict=True) if kept)

    @property
    def dropped_names(self) -> tuple[str, ...]:
        """Names of the dropped features, in the schema's order."""
        return tuple(name for name, kept in zip(self.features, self.kept, strict=True) if not kept)

    @property
    def important(self) -> int:
        """Number of features with an importance above 0 for some task; beyond it, features are kept by chance."""
        return int((self.tasks.importance > 0).any(axis=1).sum())


def check_settings(settings: FilterSettings, schema: Schema) -> None:
    """Checks the settings against the schema before anything is measured.

    Raises:
      UserError: the budget is out of range, portfolios are asked for but the data has one domain, or a weight names an
        unknown task.
    """
    check_budget(settings.budget, len(list_features(schema)))
    tasks = [label.name for label in schema.labels]
    if settings.tasks == "portfolios":
        if len(schema.domain_values) < 2:
            raise UserError("tasks = 'portfolios': the data has one domain; use objectives")
        tasks = [f"{domain}/{objective}" for domain in schema.domain_values for objective in tasks]
    _check_weights(settings, tasks)


def choose_features(measured: RunImportance, settings: FilterSettings) -> FeatureSelection:
    """Chooses features by their importances.

    Args:
      measured: the importances.
      settings: settings of the selection.

    Returns:
      The selection.

    Raises:
      UserError: the budget is out of range, portfolios are asked for but the data has one domain, a weight names an
        unknown task, or an importance is not a number.
    """
    tasks = _find_tasks(measured, settings)
    check_importance(tasks.importance, measured.features, tasks.tasks)
    tasks = clear_noise(tasks, settings.standard_errors)
    if settings.method == "pareto":
        pareto = select_pareto(tasks.importance, settings.budget, settings.seed)
        reasons = _explain_layers(measured.features, pareto.layers, pareto.kept, pareto.last_layer)
        return FeatureSelection(measured.features, pareto.kept, reasons, pareto.layers, None, tasks)
    weights = np.array([settings.weights.get(task, 1.0) for task in tasks.tasks])
    if not weights.any():
        raise UserError("weights: all are 0; give some task a weight above 0")
    weighted = select_weighted_sum(tasks.importance, settings.budget, weights, settings.seed)
    layers = compute_layers(tasks.importance)
    reasons = _explain_scores(weighted.score, weighted.kept)
    return FeatureSelection(measured.features, weighted.kept, reasons, layers, weighted.score, tasks)


def clear_noise(tasks: TaskImportance, standard_errors: float) -> TaskImportance:
    """Sets importances below the given number of standard errors to 0, including negative ones.

    Otherwise noise would decide the layers: to dominate a useless feature, a feature that helps only one task would
    also need at least its noisy importance for every other task.

    Args:
      tasks: the importances.
      standard_errors: threshold in standard errors; 0 leaves all importances unchanged.
    """
    if standard_errors == 0:
        return tasks
    counts = tasks.importance >= standard_errors * tasks.standard_error
    return dataclasses.replace(tasks, importance=np.where(counts, tasks.importance, 0.0))


def reduce_schema(schema: Schema, kept: tuple[str, ...]) -> Schema:
    """Removes the dropped features from a schema.

    Columns keep their order. If the owner of a vocabulary is dropped but columns that share it are kept, the first of
    them becomes the owner with the same encoding and rows, so ids keep their meaning.

    Args:
      schema: schema of the run, resolved or not.
      kept: names of the features to keep.

    Returns:
      The smaller schema; labels, domain, timestamp, group and weight are unchanged.

    Raises:
      UserError: a name is not a feature.
    """
    known = list_features(schema)
    for name in kept:
        if name not in known:
            raise UserError(f"feature {name!r}: not a column of schema {schema.name!r} ({', '.join(known)})")
    new_owners = find_new_owners(schema, kept)
    owners = {column.name: column for column in schema.id_columns}

    def keep(column: CategoricalColumn) -> CategoricalColumn:
        heir = new_owners.get(column.vocabulary)
        if heir is None:
            return column
        if heir != column.name:
            return dataclasses.replace(column, vocabulary_of=heir)
        owner = owners[column.vocabulary]
        own = {key: getattr(owner, key) for key in ("encoding", "rows", "min_count", "salt")}
        return dataclasses.replace(column, vocabulary_of=None, **own)

    return dataclasses.replace(
        schema,
        dense=tuple(column for column in schema.dense if column.name in kept),
        categorical=tuple(keep(column) for column in schema.categorical if column.name in kept),
        sequences=tuple(keep(column) for column in schema.sequences if column.name in kept),
    )


def find_new_owners(schema: Schema, kept: tuple[str, ...]) -> dict[str, str]:
    """Maps each vocabulary whose owner is dropped to the kept column that takes it over, if one shares it."""
    heirs: dict[str, str] = {}
    for column in schema.id_columns:
        if column.name in kept and column.vocabulary not in kept:
            heirs.setdefault(column.vocabulary, column.name)
    return heirs


def describe_selection(selection: FeatureSelection, settings: FilterSettings, schema: Schema) -> dict[str, Any]:
    """Builds the content of `selection.json`.

    Args:
      selection: the selection.
      settings: settings of the selection.
      schema: schema with all features.

    Returns:
      JSON values: "settings", "tasks", "kept" and "dropped" names, "important" (number of features with importance
      above 0 for some task), "layer_sizes", "new_owners" of vocabularies (see `find_new_owners`), and "features", one
      object per feature, kept ones first, then by layer: "name", "kept", "layer" from 1, "dominated_by" (a feature of
      the previous layer, or null), "score" (weighted_sum only), "why".
    """
    order = np.lexsort((selection.layers.layer, ~selection.kept))
    return {
        "settings": dataclasses.asdict(settings),
        "tasks": list(selection.tasks.tasks),
        "kept": list(selection.kept_names),
        "dropped": list(selection.dropped_names),
        "important": selection.important,
        "layer_sizes": selection.layers.sizes.tolist(),
        "new_owners": find_new_owners(schema, selection.kept_names),
        "features": [_describe_feature(selection, int(place)) for place in order],
    }


def write_filter(
    measured: RunImportance,
    selection: FeatureSelection,
    settings: FilterSettings,
    schema: Schema,
    output: Path,
    title: str,
    axes: tuple[str, ...] = (),
) -> None:
    """Writes the files listed in the module docstring, each atomically, `selection.json` last.

    Args:
      measured: the importances.
      selection: the selection.
      settings: settings of the selection.
      schema: schema with all features.
      output: output folder; created if missing.
      title: title of the picture.
      axes: the two tasks to plot; empty: the first two.

    Raises:
      UserError: `axes` are not two of the compared tasks, or the folder cannot be written.
    """
    picture = draw_fronts(selection.tasks, selection.features, selection.layers.layer, selection.kept, title, axes)
    try:
        output.mkdir(parents=True, exist_ok=True)
        save_importance(measured, output / "importance.json")
        write_text_whole(output / "schema.json", schema_to_json(reduce_schema(schema, selection.kept_names)))
        write_bytes_whole(output / "fronts.png", picture)
        described = replace_nan_by_none(describe_selection(selection, settings, schema))
        write_text_whole(output / "selection.json", json.dumps(described, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--output = {output}: {error.strerror}; give a folder that can be written") from None


def _find_tasks(measured: RunImportance, settings: FilterSettings) -> TaskImportance:
    tasks = measured.objectives if settings.tasks == "objectives" else measured.portfolios
    if tasks is None:
        raise UserError("tasks = 'portfolios': the data has one domain; use objectives")
    _check_weights(settings, tasks.tasks)
    return tasks


def _check_weights(settings: FilterSettings, tasks: Sequence[str]) -> None:
    for task in settings.weights:
        if task not in tasks:
            raise UserError(f"weights of {task!r}: no such task; there are {', '.join(tasks)}")


def _explain_layers(features: tuple[str, ...], layers: Layers, kept: np.ndarray, last_layer: int) -> tuple[str, ...]:
    sizes = layers.sizes
    drawn = int(kept[layers.layer == last_layer].sum())
    reasons = []
    for layer, dominator in zip(layers.layer.tolist(), layers.dominator.tolist(), strict=True):
        above = "no feature dominates it" if dominator < 0 else f"dominated by {features[dominator]}"
        if layer < last_layer or (layer == last_layer and drawn == sizes[layer]):
            fate = "the whole layer fits the budget"
        elif layer == last_layer:
            fate = f"the budget has room for {drawn} of the layer's {sizes[layer]}, drawn at random"
        else:
            fate = f"the budget is full after layer {last_layer + 1}"
        reasons.append(f"layer {layer + 1}, {above}; {fate}")
    return tuple(reasons)


def _explain_scores(score: np.ndarray, kept: np.ndarray) -> tuple[str, ...]:
    least = score[kept].min()
    return tuple(
        f"weighted sum {value:.6g}, {'kept' if stays else 'dropped'}: the least of the kept is {least:.6g}"
        for value, stays in zip(score.tolist(), kept.tolist(), strict=True)
    )


def _describe_feature(selection: FeatureSelection, place: int) -> dict[str, Any]:
    dominator = int(selection.layers.dominator[place])
    described: dict[str, Any] = {
        "name": selection.features[place],
        "kept": bool(selection.kept[place]),
        "layer": int(selection.layers.layer[place]) + 1,
        "dominated_by": None if dominator < 0 else selection.features[dominator],
    }
    if selection.score is not None:
        described["score"] = float(selection.score[place])
    return described | {"why": selection.reasons[place]}
