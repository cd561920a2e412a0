"""Reads the files in a run's folder: config, metrics lines, summary and calibration curve."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The parsed files of a run's folder; some are missing while the run is training."""

    config: Mapping[str, Any]  # config.json
    lines: Sequence[Mapping[str, Any]]  # metrics.jsonl, each with `step` and `split`
    summary: Mapping[str, Any] | None  # summary.json, None until the run ends
    calibration: Sequence[Mapping[str, float]]  # calibration.json, empty until the test split is scored

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.config.get("name") or "run")

    @property
    def references(self) -> Mapping[str, Mapping[str, Any]]:
        """Metrics of other predictors on the same test rows: name -> metrics."""
        return (self.summary or {}).get("references") or {}

    def metrics_of(self, split: str) -> Mapping[str, Any]:
        """Returns the metrics of `validation` or `test` from the summary, else from the newest metrics line."""
        from_summary = (self.summary or {}).get(split)
        if from_summary:
            return from_summary
        return next((line for line in reversed(self.lines) if line["split"] == split), {})

    def series(self, split: str, metric: str) -> tuple[list[int], list[float]]:
        """Returns a metric over the course of the run.

        Returns:
          (steps, values) of the lines in which the metric is a finite number, in file order.
        """
        points = [(line["step"], read_number(line.get(metric))) for line in self.lines if line["split"] == split]
        kept = [(step, value) for step, value in points if value is not None]
        return [step for step, _ in kept], [value for _, value in kept]


def read_number(value: Any) -> float | None:
    """Returns a finite number as a float, and None for anything else (null, NaN, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def load_run_record(workdir: Path) -> RunRecord:
    """Reads the files that a run has written so far.

    Raises:
      UserError: the folder holds no run, or a file has unexpected content.
    """
    config = read_json_file(workdir / "config.json", dict)
    if config is None:
        raise UserError(f"{workdir}: holds no run (no config.json); give the folder of a run")
    return RunRecord(
        config=config,
        lines=read_metrics(workdir / "metrics.jsonl"),
        summary=read_json_file(workdir / "summary.json", dict),
        calibration=read_json_file(workdir / "calibration.json", list) or [],
    )


def read_json_file(path: Path, kind: type) -> Any:
    """Reads a JSON file; returns None if it does not exist.

    Raises:
      UserError: the file is not JSON, or its value is not of type `kind`.
    """
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); delete it and run again") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start + 1}); delete it and run again") from None
    except (RecursionError, ValueError):  # a number of thousands of digits is no JSONDecodeError
        raise UserError(f"{path}: is nested too deeply or has a number too long; delete it and run again") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected a {kind.__name__}; delete it and run again")
    return value


def read_metrics(path: Path, skip_torn: bool = False) -> list[dict[str, Any]]:
    """Reads the lines of a `metrics.jsonl`, each with an integer `step` and a text `split`.

    Args:
      path: the file; if it does not exist, there are no lines. An incomplete last line is skipped, because a kill may
        have cut it or the run may be writing it.
      skip_torn: also skip other lines that cannot be read.

    Raises:
      UserError: a line cannot be read.
    """
    if not path.exists():
        return []
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"]), "split": str(line["split"])})
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if number < len(texts) and not skip_torn:
                raise UserError(
                    f"{path}, line {number} = {text[:60]!r}: not an object with step and split; delete the line"
                ) from None
    return lines
