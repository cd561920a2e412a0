"""Synthetic rows of a sweep with losses of a known law, as in `points.json`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Model -> sizes, smallest MFLOP, floor, scale and exponent above the Bayes loss.
MODELS: dict[str, tuple[int, float, float, float, float]] = {
    "Wukong": (5, 0.05, 0.004, 0.03, 0.5),
    "DLRM": (3, 0.04, 0.02, 0.03, 0.45),
    "FM": (1, 0.01, 0.12, 0.001, 0.1),
}


def make_rows(
    models: Mapping[str, tuple[int, float, float, float, float]] = MODELS,
    data: str = "factorized",
    bayes: float | None = 0.41,
    seeds: int = 3,
    noise: float = 0.002,
    passes: tuple[float, ...] = (0.5, 1.0),
) -> list[dict[str, Any]]:
    """Returns rows of all sizes (s0, s1, ...), each three times as large as the previous, at shares of the pass."""
    generator = np.random.default_rng(0)
    rows = []
    for model, (sizes, smallest, floor, scale, exponent) in models.items():
        for i in range(sizes):
            mflop = smallest * 3**i
            for share in passes:
                above = (floor + scale * mflop**-exponent) / share**0.3 * (1 + noise * generator.normal(size=seeds))
                rows.append(make_row(data, model, f"s{i}", mflop, share, list(map(float, above)), bayes))
    return rows


def make_row(
    data: str, model: str, size: str, mflop: float, share: float, above: list[float], bayes: float | None
) -> dict[str, Any]:
    losses = [loss + (0.41 if bayes is None else bayes) for loss in above]
    return {
        "data": data,
        "model": model,
        "size": size,
        "options": {"layers": 2, "head": [64, 32], "norm": "post"},
        "learning_rate": 0.001,
        "embedding_learning_rate": 0.02,
        "initial_scale": 0.05,
        "norm": "post",
        "train_flops_per_example": mflop * 1e6,
        "parameters": round(mflop * 2e5),
        "embedding_parameters": 123_456,
        "examples_seen": round(4e6 * share),
        "final": share == 1,
        "seeds": list(range(len(losses))),
        **_summarise("log_loss", losses),
        **_summarise("excess_log_loss", above if bayes is not None else []),
        "auc": 0.8 if losses else None,
        "auc_std": 0.001 if len(losses) > 1 else None,
        "bayes_log_loss": bayes,
        "split": "test" if share == 1 else "validation",
        "exploded": 0,
        "errors": [],
    }


def explode(row: dict[str, Any], lost: int) -> dict[str, Any]:
    """Returns the row as if its last `lost` seeds had diverged."""
    kept = len(row["seeds"]) - lost
    changed = {**row, "seeds": row["seeds"][:kept], "exploded": lost}
    for key in ("log_loss", "excess_log_loss"):
        changed |= _summarise(key, row[f"{key}_values"][:kept])
    return changed | ({} if kept else {"auc": None, "auc_std": None})


def _summarise(key: str, values: list[float]) -> dict[str, Any]:
    return {
        key: float(np.mean(values)) if values else None,
        f"{key}_std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        f"{key}_values": values,
    }
