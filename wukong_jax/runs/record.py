"""The files that a run leaves behind, read back: config, metrics lines, summary and calibration curve."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The files of a run's folder, parsed; a run under way has less."""

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
        """The metrics of `validation` or `test`: the summary's, or those of the newest line."""
        from_summary = (self.summary or {}).get(split)
        if from_summary:
            return from_summary
        return next((line for line in reversed(self.lines) if line["split"] == split), {})

    def series(self, split: str, metric: str) -> tuple[list[int], list[float]]:
        """A metric over the run.

        Returns:
          (steps, values) of the lines that have the metric as a finite number, in the file's order.
        """
        points = [(line["step"], read_number(line.get(metric))) for line in self.lines if line["split"] == split]
        kept = [(step, value) for step, value in points if value is not None]
        return [step for step, _ in kept], [value for _, value in kept]


def read_number(value: Any) -> float | None:
    """The value as a float where it is a finite number, else None (null, nan, text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def load_run_record(workdir: Path) -> RunRecord:
    """Reads what a run has left in its folder so far.

    Raises:
      UserError: the folder holds no run, or one of its files is not what a run writes.
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
    """The value of a JSON file; None where there is no such file.

    Raises:
      UserError: it is not JSON, or its value is not of the kind.
    """
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg}); delete it and run again") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected a {kind.__name__}; delete it and run again")
    return value


def read_metrics(path: Path, skip_torn: bool = False) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, each with an integer `step` and a text `split`; none where there is no file.

    Args:
      path: the file. Its last line may be torn, by a kill or because the run is writing it now; it is left out.
      skip_torn: leave out other lines that cannot be read, too.

    Raises:
      UserError: a line cannot be read.
    """
    if not path.exists():
        return []
    texts = path.read_text().split("\n")
    lines = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"]), "split": str(line["split"])})
        except (ValueError, KeyError, TypeError):
            if number < len(texts) and not skip_torn:
                raise UserError(
                    f"{path}, line {number} = {text[:60]!r}: not an object with step and split; delete the line"
                ) from None
    return lines
