"""Turns the outcomes of a sweep into points of curves, by pure functions.

A point is one flat row for a model, a size and a number of examples seen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wukong_jax.runs.record import read_number
from wukong_jax.scaling.sweep.config import Settings, SweepConfig
from wukong_jax.scaling.sweep.units import Losses, Unit, plan_search, rate_grid

Outcome = Mapping[str, Any]
Outcomes = Callable[[Unit], Outcome | None]


def collect_points(
    sweep: SweepConfig, found: Mapping[str, Mapping[str, Settings]], outcomes: Outcomes, bayes: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Collects the points of all curves from the units that have ended.

    Args:
      sweep: the sweep.
      found: settings by model and size, for sizes whose search has ended.
      outcomes: returns the outcome of a unit; None if it has not ended.
      bayes: Bayes log loss by split, for splits where it is known.

    Returns:
      Rows with the keys of `docs/results/scaling_*`. Rows with `final` have metrics on the test rows, for the state
      with the lowest validation log loss; the others have metrics on the validation rows during training. Values are
      means over the seeds that ended without exploding. `excess_log_loss` is relative to the Bayes loss of the same
      rows.
    """
    rows = []
    for model, of_sizes in found.items():
        for size, settings in of_sizes.items():
            units = [Unit(model, size, settings, seed) for seed in sweep.seeds]
            ended = {unit.seed: outcome for unit in units if (outcome := outcomes(unit)) is not None}
            if ended:
                rows += _points_of_size(sweep, units[0], ended, bayes)
    return rows


def _points_of_size(
    sweep: SweepConfig, unit: Unit, ended: Mapping[int, Outcome], bayes: Mapping[str, float]
) -> list[dict[str, Any]]:
    done = {seed: outcome for seed, outcome in ended.items() if outcome["status"] == "done"}
    run = sweep.run_config(unit.model, unit.size, unit.settings, unit.seed, "rows")
    common: dict[str, Any] = {
        "data": sweep.data_name,
        "model": unit.model,
        "size": unit.size,
        "options": dict(run.model.options),
        "learning_rate": run.optimizer.learning_rate,
        "embedding_learning_rate": run.embeddings.optimizer.learning_rate,
        "initial_scale": run.embeddings.initial_scale,
        "norm": unit.settings.norm,
        "structure": dict(unit.settings.structure),
        "weight_decay": unit.settings.weight_decay,
        "seeds": sorted(done),
        "missing_seeds": len(sweep.seeds) - len(ended),
        "exploded": sum(outcome["status"] == "exploded" for outcome in ended.values()),
        "errors": [outcome["error"] for outcome in ended.values() if outcome["status"] == "failed"],
    }
    if not done:
        costs = [outcome.get("cost") or outcome.get("summary") for outcome in ended.values()]
        cost = _cost(next((cost for cost in costs if cost), {}))
        return [common | _values("test", True, None, [], [], bayes) | cost]
    summaries = [done[seed]["summary"] for seed in sorted(done)]
    common |= _cost(summaries[0])
    rows = []
    for places in zip(*(done[seed]["points"] for seed in sorted(done)), strict=False):
        losses, aucs = ([place[key] for place in places] for key in ("log_loss", "auc"))
        rows.append(common | _values("validation", False, places[0]["examples_seen"], losses, aucs, bayes))
    tests = [summary.get("test") or summary["validation"] for summary in summaries]
    split = "test" if "test" in summaries[0] else "validation"
    losses, aucs = ([test[key] for test in tests] for key in ("log_loss", "auc"))
    return [*rows, common | _values(split, True, summaries[0]["examples_seen"], losses, aucs, bayes)]


def _cost(summary: Mapping[str, Any]) -> dict[str, Any]:
    speed = summary.get("examples_per_second")
    return {
        "train_flops_per_example": summary.get("train_flops_per_example"),
        "parameters": summary.get("dense_parameters"),
        "embedding_parameters": summary.get("embedding_parameters"),
        "examples_per_second": round(speed) if speed else None,
    }


def _values(
    split: str,
    final: bool,
    examples: int | None,
    losses: Sequence[float],
    aucs: Sequence[float],
    bayes: Mapping[str, float],
) -> dict[str, Any]:
    least = bayes.get(split)
    row: dict[str, Any] = {"split": split, "final": final, "examples_seen": examples, "bayes_log_loss": least}
    excess = [loss - least for loss in losses] if least is not None else []
    for name, values in (("log_loss", losses), ("excess_log_loss", excess), ("auc", aucs)):
        defined = all(read_number(value) is not None for value in values)  # AUC is not, with labels of one class
        row[name] = float(np.mean(values)) if values and defined else None
        row[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 and defined else None
        if name != "auc":
            row[f"{name}_values"] = list(values)
    return row


def describe_search(sweep: SweepConfig, losses: Losses, outcomes: Outcomes) -> list[dict[str, Any]]:
    """Describes each model's search with one row per trial."""
    rows = []
    for model in sweep.models:
        trials, found = plan_search(sweep, model, losses)
        rows += [_describe_trial(unit, stage, found.get(unit.size), outcomes(unit)) for unit, stage in trials.items()]
    return rows


def list_ends_of_grid(sweep: SweepConfig, found: Mapping[str, Mapping[str, Settings]]) -> list[str]:
    """Lists the sizes whose best rate is the lowest or highest of the grid, where a better one may lie beyond it."""
    rates = rate_grid(sweep)
    ends = {min(rates), max(rates)} if len(rates) > 1 else set()
    return [f"{model} {size}" for model in found for size, settings in found[model].items() if settings.rate in ends]


def _describe_trial(unit: Unit, stage: str, found: Settings | None, outcome: Outcome | None) -> dict[str, Any]:
    done = outcome is not None and outcome["status"] == "done"
    return {
        "model": unit.model,
        "size": unit.size,
        "stage": stage,
        "rate": unit.settings.rate,
        "initial_scale": unit.settings.initial_scale,
        "norm": unit.settings.norm,
        "structure": dict(unit.settings.structure),
        "weight_decay": unit.settings.weight_decay,
        "validation_log_loss": outcome["summary"]["validation"]["log_loss"] if outcome and done else None,
        "status": outcome["status"] if outcome else "missing",
        "chosen": unit.settings == found,
    }
