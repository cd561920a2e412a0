"""Describes values of raw columns that cannot be read."""

import dataclasses

import numpy as np
import polars as pl

_VALUE_CHARACTERS = 80


@dataclasses.dataclass(frozen=True)
class Problem:
    """Values of one column that cannot be read."""

    column: str
    rows: np.ndarray  # [rows] bool, True where the value is bad
    values: pl.Series  # [rows], raw values
    expected: str

    def describe(self, row: int) -> str:
        """Describes the problem of one row, for example "column 'label' = 'x': expected a number"."""
        value = self.values[row]
        shown = repr(value.to_list()) if isinstance(value, pl.Series) else repr(str(value))
        shown = repr(f"{value:.15g}") if isinstance(value, float) else shown
        shown = shown if len(shown) <= _VALUE_CHARACTERS else f"{shown[:_VALUE_CHARACTERS]}..."
        return f"column {self.column!r} = {shown}: expected {self.expected}"


def add_problem(
    problems: list[Problem], column: str, rows: np.ndarray | None, values: pl.Series, expected: str
) -> None:
    """Adds a problem to a list if any of its rows, [rows] bool, is bad; None stands for no row."""
    if rows is not None and rows.any():
        problems.append(Problem(column, rows, values, expected))
