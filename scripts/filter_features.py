"""Chooses which features a smaller model keeps: importances, layers, and a schema without the dropped columns.

    python scripts/filter_features.py --workdir=runs/mine --output=runs/mine/filter --budget=20
    python scripts/filter_features.py --workdir=runs/mine --output=runs/mine/filter_10 --budget=10 \
        --importance=runs/mine/filter/importance.json

Lattice Filter (paper 3.2.2): each feature's values are shuffled over rows of a split, and the rise of each task's log
loss is its importance; features that no other is at least as important for every task as, and more for one, are kept
first, layer by layer. Then train with `--config.data.schema=OUTPUT/schema.json` where the rows come from raw files, or,
with --write_rows, with `--config.data.format=blocks --config.data.path=OUTPUT/data --config.data.schema=`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wukong_jax.cli.command_line import run_script
from wukong_jax.errors import UserError

if TYPE_CHECKING:
    from lattice.filter.feature_filter import FeatureSelection

_METHODS = {"pareto": "Pareto layers", "weighted_sum": "weighted sum"}


def main() -> None:
    """Parses, restores, measures, chooses, writes."""
    arguments = _parse()
    weights = _parse_weights(arguments.weights)
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

    settings = FilterSettings(
        budget=arguments.budget,
        method=arguments.method,
        tasks=arguments.tasks,
        weights=weights,
        seed=arguments.seed,
        standard_errors=arguments.standard_errors,
    )
    shuffling = ShuffleSettings(**_list_given(arguments), seed=arguments.seed)
    measured = load_importance(arguments.importance) if arguments.importance else None
    opened = open_run(arguments.workdir, arguments.data)
    schema, output = opened.run.schema, Path(arguments.output)
    check_settings(settings, schema)
    if measured is None:
        measured = measure_importance(opened, shuffling, say=lambda text: print(text, file=sys.stderr))
    check_features(measured, schema)
    selection = choose_features(measured, settings)
    method = _METHODS[settings.method]
    title = f"{opened.run.config.name}: {settings.budget} of {len(selection.features)} features by {method}"
    axes = tuple(arguments.axes.split(",")) if arguments.axes else ()
    write_filter(measured, selection, settings, schema, output, title, axes)
    if arguments.write_rows:
        write_reduced_rows(opened.data, reduce_schema(schema, selection.kept_names), output / "data")
    _print_selection(selection, settings.budget, opened.run.config.embeddings.fields)
    print(f"wrote {output}/selection.json, importance.json, schema.json, fronts.png")


def _print_selection(selection: "FeatureSelection", budget: int, overrides: Mapping[str, Any]) -> None:
    print(f"kept {len(selection.kept_names)}: {', '.join(selection.kept_names)}")
    print(f"dropped {len(selection.dropped_names)}: {', '.join(selection.dropped_names) or 'none'}")
    if budget > selection.important:
        print(f"only {selection.important} features are of importance for some task: chance chose the rest of the kept")
    overridden = sorted(set(overrides) & set(selection.dropped_names))
    if overridden:
        print(f"config.embeddings.fields names dropped columns, leave them out: {', '.join(overridden)}")


def _parse() -> argparse.Namespace:
    parser = _build_parser()
    arguments = parser.parse_args()
    if arguments.importance and _list_given(arguments):
        given = ", ".join(f"--{name}" for name in _list_given(arguments))
        parser.error(f"{given}: without effect beside --importance; leave out one or the other")
    return arguments


def _list_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of measuring that were given, by name."""
    measuring = {name: getattr(arguments, name) for name in ("split", "rows", "shuffles")}
    return {name: value for name, value in measuring.items() if value is not None}


def _parse_weights(text: str) -> dict[str, float]:
    weights = {}
    for item in text.split(",") if text else ():
        task, equals, value = item.rpartition("=")
        try:
            weights[task] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"--weights = {text!r}: {item!r} is not TASK=NUMBER; give for example click=1,buy=5")
    return weights


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--output", required=True, help="folder of what is found")
    parser.add_argument("--budget", required=True, type=int, help="features (columns) to keep")
    parser.add_argument(
        "--method",
        choices=tuple(_METHODS),
        default="pareto",
        help="layers, or the weighted sum that they are held against (default: pareto)",
    )
    parser.add_argument(
        "--tasks",
        choices=("objectives", "portfolios"),
        default="objectives",
        help="what importances are compared over: objectives, or objectives of each domain (default: objectives)",
    )
    parser.add_argument("--weights", default="", help="of weighted_sum: TASK=NUMBER,...; the others weigh 1")
    parser.add_argument(
        "--standard_errors",
        type=float,
        default=3.0,
        help="importances below so many of their standard errors count as 0; 0: compare them as they are (default: 3)",
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), help="default: validation")
    parser.add_argument("--rows", type=int, help="rows of the split to read at most (default: 65536)")
    parser.add_argument("--shuffles", type=int, help="shuffles of each feature (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of rows, shuffles and the last layer's draw (default: 0)")
    parser.add_argument("--importance", help="importance.json of an earlier call: choose again, measure nothing")
    parser.add_argument("--axes", default="", help="two tasks to draw, with a comma between (default: the first two)")
    parser.add_argument("--write_rows", action="store_true", help="write OUTPUT/data: row blocks of the kept columns")
    parser.add_argument("--data", help="row blocks, if they have moved since training")
    return parser


if __name__ == "__main__":
    run_script(main)
