"""What a run left behind, as its report and pictures read it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


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
