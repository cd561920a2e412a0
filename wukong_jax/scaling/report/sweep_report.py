"""Writes the results of a sweep: points.json, search.csv, the report, and results.json in a folder of kept results."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.reports.kept_results import write_results
from wukong_jax.scaling.report.page import Section
from wukong_jax.scaling.report.report import format_csv, write_scaling_report
from wukong_jax.scaling.sweep.points import collect_points, describe_search, list_ends_of_grid
from wukong_jax.scaling.sweep.sweep import Sweep


def read_points(sweep: Sweep) -> list[dict[str, Any]]:
    """Returns the points of a sweep's curves so far."""
    bayes = {split: values["log_loss"] for split, values in sweep.data.report.get("bayes", {}).items()}
    return collect_points(sweep.config, sweep.found(), sweep.outcome, bayes)


def read_search(sweep: Sweep) -> list[dict[str, Any]]:
    """Returns the trials of a sweep's searches so far."""
    return describe_search(sweep.config, sweep.loss, sweep.outcome)


def report_sweep(sweep: Sweep) -> Path:
    """Writes points.json, search.csv and the report of the results so far to the sweep's folder; returns the page."""
    points, trials = read_points(sweep), read_search(sweep)
    structures = sweep.config.search.structure.trials > 0
    document = {"rows": points, "search": trials}
    write_text_whole(sweep.folder / "points.json", json.dumps(replace_nan_by_none(document), indent=1) + "\n")
    write_text_whole(sweep.folder / "search.csv", format_csv(list(trials[0]), trials))
    return write_scaling_report(
        points,
        sweep.folder,
        sweep.config.name,
        notes=_notes(sweep),
        sections=[Section("Searched settings", _STRUCTURE_TEXT if structures else _SEARCH_TEXT, trials)],
        missing_units=sweep.count_missing(),
        reference=sweep.config.reference,
        baseline=sweep.config.baseline,
    )


def keep_results(sweep: Sweep, output: Path, command: str) -> Path:
    """Copies a sweep's pictures and CSV files to a folder and writes results.json there.

    Args:
      sweep: a sweep whose report is written; the points are those of the report.
      output: the folder, `docs/results/<name>`.
      command: the command line that produced the results.

    Returns:
      The path of results.json.

    Raises:
      UserError: the sweep has no points yet; the folder is not changed.
    """
    rows = json.loads((sweep.folder / "points.json").read_text(encoding="utf-8"))["rows"]
    if not rows:
        raise UserError(f"--output = {output}: no search of the sweep in {sweep.folder} has ended; run it first")
    path = write_results(output, command, rows, sweep.list_made())
    for pattern in ("*.png", "*.csv"):
        for file in sweep.folder.glob(pattern):
            shutil.copy(file, output)
    return path


_SEARCH_TEXT = (
    "Every model's smallest size was trained with each norm placement and initial embedding scale at rate 1. The best "
    "combination, by validation log loss, is used for the other sizes, too. The rate, which multiplies both learning "
    "rates, was searched at every size, along the same grid, starting from the best rate of the next smaller size: "
    "down until two rates in a row are no better, then up in the same way. The chosen rows show how the best rate "
    "changes with size."
)

_STRUCTURE_TEXT = (
    "Every model had the same number of trials over structure, norm, initial scale, weight decay and rate at one size "
    "in the middle of its ladder: the usual structure first, then random ones, then those that a tree-structured "
    "Parzen estimator suggests. The best, by validation log loss, is used for all sizes. The rate, which multiplies "
    "both learning rates, was searched again at every size, starting from the best rate of the next smaller size: down "
    "until two rates in a row are no better, then up in the same way, beyond the grid if need be."
)


def _notes(sweep: Sweep) -> list[str]:
    config, rows = sweep.config, {name: blocks.rows for name, blocks in sweep.data.splits.items()}
    training = config.run["training"]
    epochs = training.get("epochs")
    what = "Generated data" if config.generated else "Real data"
    others = ", ".join(f"{count:,} {name} rows" for name, count in rows.items() if name != "train")
    passes = "One pass over" if epochs == 1 else f"{epochs} passes over" if epochs else "Trained on"
    notes = [
        f"{what} ({config.data_name}): {rows['train']:,} training rows, {others}.",
        f"{passes} the same rows for every model, batch {training['batch_size']:,}, the same schedule, seeds "
        f"{', '.join(map(str, config.seeds))}, and the same search: {_describe_space(sweep)}.",
        "FLOPs are for training on one row: 6 for each multiply-accumulate of a forward pass (4 in the first layer "
        "over dense columns); tables are not counted. At points during training, the learning rate has not decayed.",
        _describe_trials(sweep),
    ]
    ends = list_ends_of_grid(config, sweep.found())
    if ends:
        notes.append(f"The best rate is at an end of the grid; a better one may exist beyond it: {', '.join(ends)}.")
    searching = sweep.searching()
    if searching:
        notes.append(f"Models whose search has not ended, with incomplete curves: {', '.join(searching)}.")
    return notes


def _describe_space(sweep: Sweep) -> str:
    search = sweep.config.search
    rates, scales = _list(search.rates), _list(search.initial_scales)
    text = f"rates {rates}, initial scales {scales}, and each model's norm placements"
    if not search.structure.trials:
        return text
    decays = _list(search.structure.weight_decays)
    return f"{text} and structures, weight decay {decays}, in {search.structure.trials} trials for each model"


def _describe_trials(sweep: Sweep) -> str:
    search = sweep.config.search
    steps = f" for {search.steps:,} steps, with a shortened schedule." if search.steps else ""
    if search.structure.trials:
        return f"The search trained seed {sweep.config.search_seed}, which no mean contains{steps or '.'}"
    return f"The search trained seed {sweep.config.search_seed}{steps or _SHARED_SEED_TEXT}"


_SHARED_SEED_TEXT = (
    ". Its chosen runs are included in the means. Choosing the best of several runs biases the means downwards, most "
    "where losses differ more between seeds than between settings."
)


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
