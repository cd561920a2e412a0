"""Computes what is noted about a period: shares of unknown values, and sums over periods."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.label_sums import add_labels
from wukong_jax.online.log_periods import LogPeriod
from wukong_jax.online.stored_periods import LogProgress
from wukong_jax.schema import Schema
from wukong_jax.training.start_logits import compute_start_logits


def measure_unknown(ids: np.ndarray, schema: Schema) -> dict[str, float]:
    """Measures the share of values without a row.

    Args:
      ids: [n, S] ids of a period.
      schema: the resolved schema.

    Returns:
      By vocabulary, as "item/unknown".
    """
    shares = {}
    for name in schema.vocabulary_rows():
        slots = [range(a, b) for column, a, b in schema.slot_ranges() if column.vocabulary == name]
        own = ids[:, [slot for several in slots for slot in several]]
        used = int((own >= 0).sum())
        shares[f"{name}/unknown"] = float((own == 0).sum() / used) if used else 0.0
    return shares


def compute_start(columns: Columns, schema: Schema) -> np.ndarray:
    """Computes the start logits [G, O] of a run from the rows of its first period."""
    sums = np.zeros((max(len(schema.domain_values), 1), len(schema.labels), 2))
    add_labels(sums, columns)
    return compute_start_logits(sums)


def add_period(log: LogProgress, period: LogPeriod, scores: Mapping[str, float] | None, skipped: int) -> LogProgress:
    """Adds a period to the progress of a run.

    Args:
      log: progress before the period.
      period: the period.
      scores: its metrics; None if it was not scored.
      skipped: its rows that could not be read.

    Returns:
      The progress after it.
    """
    log = dataclasses.replace(log, place=period.place, periods=log.periods + 1, skipped_rows=log.skipped_rows + skipped)
    if scores is None or not math.isfinite(scores["log_loss"]):
        return log
    rows, defined = int(scores["rows"]), math.isfinite(scores["auc"])
    clicks = scores["base_rate"] * rows
    predicted = scores["calibration"] * clicks if math.isfinite(scores["calibration"]) else 0.0
    return dataclasses.replace(
        log,
        scored_rows=log.scored_rows + rows,
        log_loss_sum=log.log_loss_sum + rows * scores["log_loss"],
        auc_sum=log.auc_sum + (rows * scores["auc"] if defined else 0.0),
        auc_rows=log.auc_rows + (rows if defined else 0),
        clicks=log.clicks + clicks,
        predicted_clicks=log.predicted_clicks + predicted,
    )
