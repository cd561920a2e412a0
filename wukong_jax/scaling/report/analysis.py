"""Analyses the points of a sweep: final points, fitted laws, held-out checks and compute to match. Pure functions.

Rows are a sweep's points (`points.py`): flat mappings, one per data set, model, size and number of examples seen.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.runs.record import read_number
from wukong_jax.scaling.law.curve import CannotFitError, Curve, Interval
from wukong_jax.scaling.law.fit import (
    HeldOut,
    PowerLaw,
    bootstrap_paper_form,
    bootstrap_power_law,
    check_held_out,
    compute_relative_loss,
    fit_paper_form,
    fit_power_law,
)
from wukong_jax.scaling.law.matched_compute import MatchedCompute, compute_to_match

Row = Mapping[str, Any]

FLOOR_FREE, FLOOR_AT_BAYES, PAPER = "floor free", "floor at Bayes", "paper"

_MEGA, _GIGA = 1e6, 1e9
_EXACT = 1e-6  # a relative error of the solver; if the floor is forced to 0, the law misses its points by more
_FREE_FLOOR_POINTS = 4  # with fewer, a law with a free floor passes through all points, so extrapolation is not tested
_KEYS = (
    "data",
    "model",
    "size",
    "options",
    "learning_rate",
    "embedding_learning_rate",
    "initial_scale",
    "norm",
    "train_flops_per_example",
    "parameters",
    "embedding_parameters",
    "examples_seen",
    "final",
    "seeds",
    "log_loss",
    "log_loss_std",
    "log_loss_values",
    "excess_log_loss",
    "excess_log_loss_std",
    "excess_log_loss_values",
    "auc",
    "auc_std",
    "bayes_log_loss",
    "split",
    "exploded",
    "errors",
)


@dataclasses.dataclass(frozen=True)
class DataResults:
    """The rows of one data set and the results computed from them."""

    name: str
    loss: str  # key of the loss to draw and fit: `excess_log_loss` if every point has it, else `log_loss`
    bayes_log_loss: float | None  # on the split of the final points; known for generated data only
    final: Mapping[str, Sequence[Row]]  # by model: rows at the end of training, in order of cost
    along: Sequence[Row]  # rows before the end of training
    fits: Sequence[Row]  # flat rows, as in fits.csv
    laws: Mapping[str, PowerLaw]  # by model: law with a free floor, over MFLOP
    matches: Mapping[str, MatchedCompute]  # by model: compute to match a reference of several sizes
    differences: Sequence[Row]  # from `compare_with_reference`, for a reference of one size
    reference_sizes: Sequence[str]  # in the order of the points of `matches`

    @property
    def is_excess(self) -> bool:
        """Whether losses are relative to the Bayes loss."""
        return self.loss == "excess_log_loss"

    @property
    def models(self) -> list[str]:
        """Models in the order of their first row."""
        return list(dict.fromkeys([*self.final, *(row["model"] for row in self.along)]))


def check_rows(rows: Sequence[Row]) -> None:
    """Checks that rows have all keys that a report reads.

    Raises:
      UserError: a row lacks a key.
    """
    for i, row in enumerate(rows):
        missing = next((key for key in _KEYS if key not in row), None)
        if missing:
            raise UserError(f"rows[{i}] has no {missing!r}; give the rows of a sweep's points.json")


def analyse(rows: Sequence[Row], reference: str, baseline: str, resamples: int = 1000) -> list[DataResults]:
    """Computes the results of each data set, in the order of their first rows.

    Args:
      rows: rows accepted by `check_rows`.
      reference: the model whose losses the others should match.
      baseline: the model whose smallest size is the baseline of the paper's form.
      resamples: number of resamples of the seeds, for intervals.
    """
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["data"], []).append(row)
    return [_analyse_one(name, group, reference, baseline, resamples) for name, group in grouped.items()]


def read_losses(row: Row, key: str) -> list[float]:
    """Returns a row's losses, one per seed."""
    return [loss for value in row[f"{key}_values"] or [] if (loss := read_number(value)) is not None]


def _analyse_one(name: str, rows: Sequence[Row], reference: str, baseline: str, resamples: int) -> DataResults:
    known = [row for row in rows if read_number(row["log_loss"]) is not None]
    has_excess = bool(known) and all(read_number(row["excess_log_loss"]) is not None for row in known)
    loss = "excess_log_loss" if has_excess else "log_loss"
    final: dict[str, list[Row]] = {}
    for row in rows:
        if row["final"]:
            final.setdefault(row["model"], []).append(row)
    for group in final.values():
        group.sort(key=lambda row: read_number(row["train_flops_per_example"]) or 0)
    curves = {model: curve for model, group in final.items() if (curve := make_curve(group, loss)) is not None}
    matches = {
        model: compute_to_match(curve, curves[reference], _floor_beyond(curve), resamples=resamples)
        for model, curve in curves.items()
        if reference in curves and model != reference and len(curves[reference].compute) > 1
    }
    fits, laws = _fit_all(name, final, curves, has_excess, baseline, resamples)
    return DataResults(
        name,
        loss,
        next((bayes for row in rows if row["final"] and (bayes := read_number(row["bayes_log_loss"]))), None),
        final,
        [row for row in rows if not row["final"]],
        fits,
        laws,
        matches,
        compare_with_reference(final, reference, loss),
        [row["size"] for row in final.get(reference, ()) if _is_point(row, loss)],
    )


def compare_with_reference(final: Mapping[str, Sequence[Row]], reference: str, loss: str) -> list[Row]:
    """Compares every final point with a reference that has one size, seed by seed; otherwise returns no rows.

    Args:
      final: rows at the end of training, by model.
      reference: the model to compare with.
      loss: key of the losses.

    Returns:
      Rows of `model`, `size`, `cost` (relative to the reference's), `difference` (mean over the shared seeds of the
      loss minus the reference's), `difference_std` and `seeds`, in ascending order of the difference.
    """
    own = final.get(reference, ())
    if len(own) != 1 or not _is_point(own[0], loss):
        return []
    base = dict(zip(own[0]["seeds"], read_losses(own[0], loss), strict=True))
    rows = []
    for model, group in final.items():
        for row in group if model != reference else ():
            losses = dict(zip(row["seeds"], read_losses(row, loss), strict=True))
            pairs = [losses[seed] - base[seed] for seed in losses if seed in base]
            if pairs:
                cost = (read_number(row["train_flops_per_example"]) or 0) / own[0]["train_flops_per_example"]
                std = float(np.std(pairs, ddof=1)) if len(pairs) > 1 else None
                shared = {"difference": float(np.mean(pairs)), "difference_std": std, "seeds": len(pairs)}
                rows.append({"model": model, "size": row["size"], "cost": cost} | shared)
    return sorted(rows, key=lambda row: row["difference"])


def _is_point(row: Row, key: str) -> bool:
    return bool(read_losses(row, key)) and (read_number(row["train_flops_per_example"]) or 0) > 0


def make_curve(rows: Iterable[Row], key: str) -> Curve | None:
    """Builds the curve of losses over training MFLOP per example from rows that have both; None if there are none."""
    points = [row for row in rows if _is_point(row, key)]
    if not points:
        return None
    return Curve([row["train_flops_per_example"] / _MEGA for row in points], [read_losses(row, key) for row in points])


def _floor_beyond(curve: Curve) -> float | None:
    """Returns the floor for extrapolation: free, or for short curves 0, which is optimistic for the model."""
    return None if len(set(curve.compute)) >= _FREE_FLOOR_POINTS else 0.0


def _fit_all(
    data: str,
    final: Mapping[str, Sequence[Row]],
    curves: Mapping[str, Curve],
    has_excess: bool,
    baseline: str,
    resamples: int,
) -> tuple[list[dict[str, Any]], dict[str, PowerLaw]]:
    fits, laws = [], {}
    first = next((row for row in final.get(baseline, ()) if _is_point(row, "log_loss")), None)
    for model, curve in curves.items():
        if len(set(curve.compute)) == 1:
            continue  # a model of one size, such as a factorization machine
        for form in (FLOOR_FREE, FLOOR_AT_BAYES) if has_excess else (FLOOR_FREE,):
            floor = None if form == FLOOR_FREE else 0.0
            row = {"data": data, "model": model, "form": form, "points": len(curve.compute)}
            try:
                law = fit_power_law(curve, floor)
            except CannotFitError as error:
                fits.append({**row, "problem": str(error)})
                continue
            if floor is None:
                laws[model] = law
            fits.append({**row, **_describe_fit(curve, law, floor, resamples)})
        losses = make_curve(final[model], "log_loss")
        if first is not None and losses is not None:
            row = {"data": data, "model": model, "form": PAPER, "points": len(losses.compute)}
            row["baseline"] = f"{baseline} {first['size']}"
            fits.append({**row, **_describe_paper_fit(losses, read_losses(first, "log_loss"), resamples)})
    return fits, laws


def _describe_fit(curve: Curve, law: PowerLaw, floor: float | None, resamples: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "floor": law.floor,
        "scale": law.scale,
        "exponent": law.exponent,
        "relative_error": law.relative_error,
    }
    exact = law.points == law.parameters and law.relative_error < _EXACT
    row["problem"] = "passes through its points" if exact else None
    if curve.has_spread:
        row |= _flatten(bootstrap_power_law(curve, floor, resamples=resamples))
    try:
        held_out = check_held_out(curve, floor, resamples=resamples)
    except CannotFitError as error:
        return {**row, "held_out_problem": str(error)}
    return row | _describe_held_out(held_out)


def _describe_held_out(held_out: HeldOut) -> dict[str, Any]:
    return {
        "held_out_mflop": held_out.compute,
        "held_out_measured": held_out.measured,
        "held_out_predicted": held_out.predicted,
        **(_flatten({"held_out_predicted": held_out.interval}) if held_out.interval else {}),
        "held_out_error": held_out.error,
        "held_out_relative_error": held_out.relative_error,
        "held_out_covered": held_out.covered,
    }


def _describe_paper_fit(curve: Curve, baseline: Sequence[float], resamples: int) -> dict[str, Any]:
    in_giga = Curve([compute * _MEGA / _GIGA for compute in curve.compute], curve.losses)
    base = sum(baseline) / len(baseline)
    relative = list(compute_relative_loss(in_giga.means, base))
    try:
        law = fit_paper_form(in_giga.compute, relative)
    except CannotFitError as error:
        return {"problem": str(error)}
    errors = (100 + law.predict(np.asarray(in_giga.compute))) * base / (100 * in_giga.means) - 1
    row: dict[str, Any] = {"scale": law.amplitude, "exponent": law.exponent}
    row["relative_error"] = float(np.sqrt(np.mean(errors**2)))
    row["problem"] = "passes through its points" if row["relative_error"] < _EXACT else None
    try:
        law = fit_paper_form(in_giga.compute[:-1], relative[:-1])
    except CannotFitError as error:
        row["held_out_problem"] = str(error)
    else:
        predicted = float(100 + law.predict(in_giga.compute[-1])) * base / 100
        row |= _describe_held_out(HeldOut(law, curve.compute[-1], float(in_giga.means[-1]), predicted, None))
    if in_giga.has_spread and len(baseline) > 1:
        intervals = bootstrap_paper_form(in_giga, baseline, resamples=resamples)
        row |= _flatten({"scale": intervals["amplitude"], "exponent": intervals["exponent"]})
    return row


def _flatten(intervals: Mapping[str, Interval]) -> dict[str, float]:
    ends: dict[str, float] = {}
    for name, interval in intervals.items():
        ends |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return ends
