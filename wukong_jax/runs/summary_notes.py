"""One-line notes on how a run ended: which state was scored, and where its loss is worse than a constant guess."""

from collections.abc import Mapping
from typing import Any

from wukong_jax.runs.record import read_number


def describe_scored_step(best_step: int | None, last_step: int) -> str:
    """Describes which state is scored: that of the best evaluation, or the last one if no evaluation was the best."""
    if best_step is None:
        return f"the early-stop metric had no finite value, so the state of the last step, {last_step:,}, is scored"
    return f"the state of step {best_step:,}, the best on validation rows, is scored"


def describe_high_entropy(summary: Mapping[str, Any]) -> str:
    """Describes where the scored state's normalized entropy (NE) is above 1, on validation rows if there are any.

    Args:
      summary: content of `summary.json`.

    Returns:
      One line; empty if NE is at most 1, or not defined, for all objectives.
    """
    split = "validation" if summary.get("validation") else "test"
    metrics = summary.get(split) or {}
    names = summary.get("objectives") or []
    keys = {f" of {name}": f"{name}/normalized_entropy" for name in names} if len(names) > 1 else {}
    found = {where: read_number(metrics.get(key)) for where, key in (keys or {"": "normalized_entropy"}).items()}
    high = [f"{value:.4f}{where}" for where, value in found.items() if value is not None and value > 1]
    if not high:
        return ""
    return (
        f"{split} normalized entropy is above 1 ({', '.join(high)}): worse than predicting the mean rate for every "
        "row; the learning rate is likely too high, or the run too long"
    )
