"""Formats the rows of the stages as one table, and says where they were measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from wukong_jax.bench.accelerator.sizes import Row
from wukong_jax.metrics.metric_names import replace_nan_by_none

_NOT_SHOWN = {"stage", "case", "case_seconds", "machine"}


def format_table(rows: Sequence[Row]) -> str:
    """Formats rows as a table: stage, case, and what was found; errors in place of it."""
    cells = [(row["stage"], row["case"], _describe(row)) for row in rows]
    stage, case = (max(len(row[i]) for row in (*cells, ("stage", "case"))) for i in (0, 1))
    titled = [("stage", "case", "found"), *cells]
    return "\n".join(f"{first:{stage}}  {second:{case}}  {third}" for first, second, third in titled)


def _describe(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"FAILED: {row['error']}"
    shown = {key: value for key, value in replace_nan_by_none(dict(row)).items() if key not in _NOT_SHOWN}
    return ", ".join(f"{key} {_format(value)}" for key, value in shown.items() if value is not None)


def _format(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def list_failed(rows: Sequence[Row]) -> list[str]:
    """Returns the stages with an error, in order."""
    return list(dict.fromkeys(row["stage"] for row in rows if "error" in row))


def find_machine(rows: Sequence[Row]) -> str:
    """Returns the description of the machine from the rows of the stage "machine", or that there is none."""
    return next((row["machine"] for row in rows if "machine" in row), "not described: the stage machine did not run")
