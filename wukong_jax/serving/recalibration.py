"""Corrects the probabilities of an artefact by rows that its run was not trained on: Platt scaling, or isotonic.

Both map a logit to a logit, one map for each objective, and never change the order of two rows. Platt scaling is
`slope * logit + offset`, the two numbers of the least log loss. Isotonic regression is the rising step function of the
least squared error, through whose steps a line is drawn, so that few rows become equal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit

from wukong_jax.errors import UserError
from wukong_jax.serving.artefact import CALIBRATION
from wukong_jax.serving.table_files import read_arrays

Kind = Literal["platt", "isotonic"]
_NEWTON_STEPS, _DAMPING = 100, 1e-9


class LogitMap(NamedTuple):
    """A rising map of logits, linear between its knots and beyond them, or constant there."""

    knots: np.ndarray  # [k] float64, ascending
    values: np.ndarray  # [k] float64
    slope: float  # beyond the knots

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Maps logits, [n], to [n] float64."""
        inside = np.interp(logits, self.knots, self.values)
        return inside + self.slope * (logits - np.clip(logits, self.knots[0], self.knots[-1]))


def fit_maps(kind: Kind, rows: Mapping[str, np.ndarray], objectives: Sequence[str]) -> tuple[LogitMap, ...]:
    """Fits a map for each objective.

    Args:
      kind: which one.
      rows: logits, labels and label_mask [n, O], and weight [n].
      objectives: O names.

    Returns:
      The maps.

    Raises:
      UserError: an objective has observed labels of one class only, or logits that do not order them at all.
    """
    maps = []
    for place, name in enumerate(objectives):
        mass = rows["weight"].astype(np.float64) * rows["label_mask"][:, place]
        kept = mass > 0
        logits, labels = (rows[key][kept, place].astype(np.float64) for key in ("logits", "labels"))
        positive = float(np.dot(mass[kept], labels))
        if not 0 < positive < mass.sum():
            raise UserError(f"--calibrate = {kind!r}: its rows have one class of labels only of {name}; give others")
        maps.append((fit_platt if kind == "platt" else fit_isotonic)(logits, labels, mass[kept]))
        if kind == "platt" and maps[-1].slope <= 0:
            raise UserError(
                f"--calibrate = 'platt': the logits of {name} do not rise with its labels (slope "
                f"{maps[-1].slope:.3g}); leave it out"
            )
    return tuple(maps)


def fit_platt(logits: np.ndarray, labels: np.ndarray, mass: np.ndarray) -> LogitMap:
    """Fits slope and offset by Newton's method, halving steps that do not lower the log loss.

    Args:
      logits: [n] float64.
      labels: [n] float64 in [0, 1].
      mass: [n] float64 above 0.

    Returns:
      The map.
    """
    inputs, weights = np.stack([logits, np.ones_like(logits)]), np.array([1.0, 0.0])

    def loss(weights: np.ndarray) -> float:
        scores = weights @ inputs
        return float(np.dot(mass, np.logaddexp(0, scores) - labels * scores))

    best = loss(weights)
    for _ in range(_NEWTON_STEPS):
        chance = expit(weights @ inputs)
        gradient = inputs @ (mass * (chance - labels))
        curvature = (inputs * (mass * chance * (1 - chance))) @ inputs.T + _DAMPING * mass.sum() * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > best and np.abs(step).max() > 1e-12:
            step /= 2
        if np.abs(step).max() <= 1e-12:
            break
        weights, best = weights - step, loss(weights - step)
    slope, offset = map(float, weights)
    return LogitMap(np.zeros(1), np.array([offset]), slope)


def fit_isotonic(logits: np.ndarray, labels: np.ndarray, mass: np.ndarray) -> LogitMap:
    """Fits a rising step function, whose steps become the knots of the map.

    Rates of 0 and 1 are moved by half a row, so that their logits are finite.

    Args:
      logits: [n] float64.
      labels: [n] float64 in [0, 1].
      mass: [n] float64 above 0.

    Returns:
      The map; it is constant beyond the first and the last step.
    """
    distinct, place = np.unique(logits, return_inverse=True)
    weights = np.bincount(place, mass)
    fitted = isotonic_regression(np.bincount(place, mass * labels) / weights, weights=weights)
    least = 0.5 / (mass.sum() + 1)
    values = logit(np.clip(fitted.x, least, 1 - least))
    ends = np.unique(np.concatenate([fitted.blocks[:-1], fitted.blocks[1:] - 1]))  # first and last of each step
    return LogitMap(distinct[ends], values[ends], 0.0)


def save_maps(folder: Path, maps: Sequence[LogitMap]) -> None:
    """Writes `calibration.npz`."""
    arrays = {f"{place}/{name}": np.asarray(value) for place, own in enumerate(maps) for name, value in _fields(own)}
    np.savez(folder / CALIBRATION, **arrays)  # type: ignore[arg-type]


def _fields(own: LogitMap) -> list[tuple[str, object]]:
    return list(own._asdict().items())


def load_maps(folder: Path, objectives: int) -> tuple[LogitMap, ...]:
    """Reads `calibration.npz`.

    Raises:
      UserError: it is damaged.
    """
    path = folder / CALIBRATION
    arrays = read_arrays(path)
    try:
        maps = tuple(
            LogitMap(arrays[f"{place}/knots"], arrays[f"{place}/values"], float(arrays[f"{place}/slope"]))
            for place in range(objectives)
        )
        for own in maps:
            rising = (np.diff(own.knots) > 0).all() and (np.diff(own.values) >= 0).all() and own.slope >= 0
            if own.knots.shape != own.values.shape or own.knots.ndim != 1 or not len(own.knots) or not rising:
                raise ValueError("no rising map")
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: holds other arrays than a calibration; copy or export it again") from None
    return maps


def apply_maps(maps: Sequence[LogitMap], logits: np.ndarray) -> np.ndarray:
    """Maps logits [n, O] to [n, O] float64; without maps they stay."""
    if not maps:
        return logits.astype(np.float64)
    return np.stack([own.apply(logits[:, place].astype(np.float64)) for place, own in enumerate(maps)], axis=1)
