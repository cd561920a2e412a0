"""Reading and writing of `importance.json`, so that features can be selected again without measuring again."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lattice.filter.permutation_importance import RunImportance, ShuffleSettings, TaskImportance
from wukong_jax.errors import UserError
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.metrics.metric_names import replace_nan_by_none
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class _StoredTasks:
    """A `TaskImportance` as stored in the file: one list per feature, null for NaN."""

    tasks: tuple[str, ...]
    rows: tuple[int, ...]
    log_loss: tuple[float | None, ...]
    importance: tuple[tuple[float | None, ...], ...]
    standard_error: tuple[tuple[float | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A `RunImportance` as stored in the file."""

    settings: ShuffleSettings
    rows: int
    step: int
    features: tuple[str, ...]
    objectives: _StoredTasks
    portfolios: _StoredTasks | None


def describe_importance(measured: RunImportance) -> dict[str, Any]:
    """Builds the content of `importance.json`.

    Returns:
      JSON values: "features"; "objectives" and "portfolios" (null with one domain), each with "tasks", "rows" and
      "log_loss" per task, and "importance" and "standard_error", one list per feature; "settings", "rows" and "step".
    """
    return replace_nan_by_none(
        {
            "settings": dataclasses.asdict(measured.settings),
            "rows": measured.rows,
            "step": measured.step,
            "features": list(measured.features),
            "objectives": _describe_tasks(measured.objectives),
            "portfolios": None if measured.portfolios is None else _describe_tasks(measured.portfolios),
        }
    )


def save_importance(measured: RunImportance, path: Path) -> None:
    """Writes the file atomically.

    Raises:
      OSError: the file cannot be written.
    """
    write_text_whole(path, json.dumps(describe_importance(measured)) + "\n")


def load_importance(path: str | Path) -> RunImportance:
    """Reads a file written by `save_importance`; all numbers are bit-identical.

    Raises:
      UserError: the file is missing, has another format, or holds tables of the wrong size.
    """
    path = Path(path)
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"importance {path}: {error.strerror}; give the importance.json of an earlier call") from None
    except ValueError as error:
        raise UserError(f"importance {path}: not JSON ({error}); measure it again") from None
    stored = build_dataclass(_Stored, mapping, str(path))
    return RunImportance(
        features=stored.features,
        objectives=_build_tasks(stored.objectives, len(stored.features), path),
        portfolios=None if stored.portfolios is None else _build_tasks(stored.portfolios, len(stored.features), path),
        settings=stored.settings,
        rows=stored.rows,
        step=stored.step,
    )


def _describe_tasks(tasks: TaskImportance) -> Mapping[str, Any]:
    return {
        "tasks": list(tasks.tasks),
        "rows": tasks.rows.tolist(),
        "log_loss": tasks.log_loss.tolist(),
        "importance": tasks.importance.tolist(),
        "standard_error": tasks.standard_error.tolist(),
    }


def _build_tasks(stored: _StoredTasks, features: int, path: Path) -> TaskImportance:
    tasks = len(stored.tasks)
    sizes = [len(stored.rows), len(stored.log_loss)]
    tables = (stored.importance, stored.standard_error)
    sizes += [len(row) for table in tables for row in table]
    if any(len(table) != features for table in tables) or any(size != tasks for size in sizes):
        raise UserError(
            f"importance {path}: its tables do not fit {features} features and {tasks} tasks; measure again"
        )
    importance, error = (np.array(table, np.float64).reshape(features, tasks) for table in tables)  # null becomes nan
    log_loss, rows = np.array(stored.log_loss, np.float64), np.array(stored.rows, np.int64)
    return TaskImportance(stored.tasks, importance, error, log_loss, rows)
