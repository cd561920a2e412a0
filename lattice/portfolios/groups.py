"""Files of portfolio groups: reads and writes `groups.json`, and formats groups as text."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lattice.filter.permutation_importance import list_features
from lattice.portfolios.affinity import Affinity, AffinityWeights
from lattice.portfolios.conflicts import Conflict, Resolved
from lattice.portfolios.partitioner import Budget, Merge, Rule, compute_cost, find_dropped_columns
from lattice.portfolios.pictures import draw_groups
from lattice.portfolios.portfolios import Portfolio, PortfolioRows
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_bytes_whole, write_text_whole
from wukong_jax.schema import Schema


def describe_groups(
    rows: PortfolioRows,
    affinity: Affinity,
    resolved: Resolved,
    rules: Sequence[Rule],
    weights: AffinityWeights,
    schema: Schema,
    budget: Budget | None,
) -> dict[str, Any]:
    """Builds the content of `groups.json`.

    Returns:
      "groups" (portfolios, number of distinct ids that the domains read, dropped columns with the rule, share of the
      weights, model runs per row, and, where there are such, its share of the budget and the parts to untie), "merges"
      in order with the affinity and its terms, "conflicts" with what was decided, "portfolios", "affinity" [P, P] and
      its terms, "rules", "weights", "budget", and "model_runs_per_row" of these groups.
    """
    names = [p.name for p in rows.portfolios]
    columns = list_features(schema)
    grouping = resolved.grouping
    total = sum(p.weight for p in rows.portfolios)
    shared = budget is not None and budget.by_weight
    return {
        "groups": [
            {
                "portfolios": [names[i] for i in group],
                "ids_read": rows.count_ids({rows.portfolios[i].domain for i in group}),
                "dropped_columns": find_dropped_columns(group, rows.portfolios, rules, columns),
                "weight_share": sum(rows.portfolios[i].weight for i in group) / total if total else None,
                "model_runs_per_row": compute_cost([group], rows.portfolios, rows.traffic),
            }
            | ({"budget": budget.share(group, rows.portfolios)} if budget is not None and shared else {})
            | ({"untied": list(resolved.untied[group])} if group in resolved.untied else {})
            for group in grouping.groups
        ],
        "merges": [_describe_merge(merge, names, affinity) for merge in grouping.merges],
        "conflicts": [_describe_conflict(conflict, names) for conflict in resolved.conflicts],
        "model_runs_per_row": grouping.cost,
        "budget": None if budget is None else budget.runs,
        "budget_by_weight": shared,
        "rules": [[rule.first, rule.second] for rule in rules],
        "weights": dataclasses.asdict(weights),
        "portfolios": [dataclasses.asdict(p) | {"name": p.name, "density": p.density} for p in rows.portfolios],
        "affinity": {
            field.name: np.round(getattr(affinity, field.name), 6).tolist() for field in dataclasses.fields(affinity)
        },
    }


def load_groups(path: str | Path) -> list[dict[str, Any]]:
    """Reads the groups of a `groups.json`, each with "portfolios", "dropped_columns" and, perhaps none, "untied".

    Raises:
      UserError: the file is missing or holds no groups.
    """
    try:
        groups = json.loads(Path(path).read_text(encoding="utf-8"))["groups"]
        for group in groups:
            if not all("/" in name for name in group["portfolios"]):
                raise ValueError
            group.setdefault("dropped_columns", {})
            group.setdefault("untied", [])
    except OSError as error:
        raise UserError(f"groups {path}: {error.strerror}; write it with wukong-jax partition_portfolios") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"groups {path}: holds no groups; write it with wukong-jax partition_portfolios") from None
    return groups


def write_groups(described: Mapping[str, Any], output: Path, title: str) -> Path:
    """Writes `groups.json` and the picture next to it; returns the path of the picture.

    Raises:
      UserError: the folder cannot be written.
    """
    picture = output.with_suffix(".png")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(picture, draw_groups(described, title))
        write_text_whole(output, json.dumps(described, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--output = {output}: {error.strerror}; give a file that can be written") from None
    return picture


def format_groups(described: Mapping[str, Any]) -> str:
    """Formats the groups and the merges that formed them as lines of text."""
    lines = []
    for index, group in enumerate(described["groups"]):
        lines.append(f"group {index}: {', '.join(group['portfolios'])}")
        lines += [f"  without column {column}: {why}" for column, why in group["dropped_columns"].items()]
        if "budget" in group:
            lines.append(
                f"  {group['weight_share']:.3g} of the weights, so {group['budget']:.3g} of the budget of model runs; "
                f"it takes {group['model_runs_per_row']:.3g}"
            )
        if "untied" in group:
            lines.append(f"  each domain has its own {', '.join(group['untied'])}, as domains conflict")
    lines.append("merged, in order:" if described["merges"] else "nothing was merged")
    for merge in described["merges"]:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in merge["parts"].items())
        lines.append(
            f"  {' + '.join(merge['first'])} with {' + '.join(merge['second'])}: affinity {merge['affinity']:.3f} "
            f"({parts})" + ("" if merge["because"] == "affinity" else "; for the budget")
        )
    for conflict in described["conflicts"]:
        sign = "at or above" if conflict["decision"] == "kept" else "below"
        lines.append(
            f"conflict: {' + '.join(conflict['first'])} with {' + '.join(conflict['second'])}: cosine "
            f"{conflict['cosine']:.3f}, {sign} {conflict['threshold']:g}: {conflict['decision']}"
        )
    lines.append(f"model runs per row of traffic: {described['model_runs_per_row']:.3g}")
    return "\n".join(lines)


def _describe_merge(merge: Merge, names: Sequence[str], affinity: Affinity) -> dict[str, Any]:
    across = np.ix_(merge.first, merge.second)
    parts = {
        field.name: float(getattr(affinity, field.name)[across].mean())
        for field in dataclasses.fields(affinity)
        if field.name != "total"
    }
    return {
        "first": [names[i] for i in merge.first],
        "second": [names[i] for i in merge.second],
        "affinity": merge.affinity,
        "because": merge.because,
        "parts": parts,
    }


def _describe_conflict(conflict: Conflict, names: Sequence[str]) -> dict[str, Any]:
    parts = {key: [names[i] for i in getattr(conflict, key)] for key in ("first", "second")}
    return dataclasses.asdict(conflict) | parts


def split_name(portfolio: Portfolio | str) -> tuple[str, str]:
    """Returns (domain, objective) of a portfolio or its name; domains may contain a slash, objectives may not."""
    name = portfolio if isinstance(portfolio, str) else portfolio.name
    domain, _, objective = name.rpartition("/")
    return domain, objective
