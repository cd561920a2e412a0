"""Collects statistics of a prepared data set while it is written."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.schema import Schema


class RowStatistics:
    """Sums over the rows of each split."""

    def __init__(self, resolved: Schema) -> None:
        """Creates statistics of zero rows.

        Args:
          resolved: schema of the columns.
        """
        self._slots = list(resolved.slot_ranges())
        splits = len(SPLITS)
        self._rows = np.zeros(splits, np.int64)
        self._observed = np.zeros((splits, len(resolved.labels)))
        self._positive = np.zeros((splits, len(resolved.labels)))
        self._used = np.zeros((splits, len(self._slots)), np.int64)
        self._unknown = np.zeros((splits, len(self._slots)), np.int64)
        self._domains = np.zeros((splits, max(len(resolved.domain_values), 1)), np.int64)

    @property
    def rows(self) -> int:
        """Number of rows of all splits so far."""
        return int(self._rows.sum())

    def add(self, split: int, columns: Columns) -> None:
        """Adds rows.

        Args:
          split: position in SPLITS.
          columns: columns as in a block.
        """
        self._rows[split] += len(columns["labels"])
        self._observed[split] += columns["label_mask"].sum(axis=0, dtype=np.float64)
        self._positive[split] += columns["labels"].sum(axis=0, dtype=np.float64)
        self._domains[split] += np.bincount(columns["domain"], minlength=self._domains.shape[1])
        used = (columns["ids"] >= 0).sum(axis=0)
        unknown = (columns["ids"] == 0).sum(axis=0)
        for index, (_, start, stop) in enumerate(self._slots):
            self._used[split, index] += used[start:stop].sum()
            self._unknown[split, index] += unknown[start:stop].sum()

    def report(self, resolved: Schema, truncated: dict[str, int]) -> dict[str, Any]:
        """Builds a report with rows, rates and shares by split.

        Args:
          resolved: schema of the columns.
          truncated: for each bag or sequence, the number of values dropped for lack of a slot, over all rows.

        Returns:
          A mapping of JSON values; rates and shares without rows are null.
        """
        report: dict[str, Any] = {"schema": resolved.name, "rows": _by_split(self._rows)}
        report["label_rate"] = {
            label.name: _by_split(_share(self._positive[:, index], self._observed[:, index]))
            for index, label in enumerate(resolved.labels)
        }
        report["label_observed_share"] = {
            label.name: _by_split(_share(self._observed[:, index], self._rows))
            for index, label in enumerate(resolved.labels)
        }
        report["vocabulary_rows"] = resolved.vocabulary_rows()
        report["unknown_share"] = {
            column.name: _by_split(_share(self._unknown[:, index], self._used[:, index]))
            for index, (column, _, _) in enumerate(self._slots)
        }
        report["bags"] = {
            column.name: {
                "slots": column.max_length,
                "fill": _by_split(_share(self._used[:, index], self._rows * column.max_length)),
                "truncated_values": truncated.get(column.name, 0),
            }
            for index, (column, _, _) in enumerate(self._slots)
            if column.separator is not None
        }
        if resolved.domain is not None:
            report["domain_rows"] = {
                value: _by_split(self._domains[:, index]) for index, value in enumerate(resolved.domain_values)
            }
        return report


def format_report(report: Mapping[str, Any]) -> str:
    """Formats a report as text: rows and label rates by split, table sizes, skipped rows, time and memory."""
    lines = [f"{'split':<12}{'rows':>14}" + "".join(f"{name:>16}" for name in report["label_rate"])]
    for split, rows in report["rows"].items():
        rates = [rates[split] for rates in report["label_rate"].values()]
        shown = "".join(f"{'-' if rate is None else f'{rate:.4f}':>16}" for rate in rates)
        lines.append(f"{split:<12}{rows:>14,}" + shown)
    tables = report["vocabulary_rows"]
    lines.append(f"{sum(tables.values()):,} rows in {len(tables)} tables; {report['skipped_rows']:,} bad rows skipped")
    if empty := report.get("empty_files"):
        lines.append(f"{len(empty):,} of {len(report['inputs']):,} files without rows, first {empty[0]}")
    lines += [f"  skipped: {example}" for example in report["skipped_examples"][:3]]
    lines.append(f"{report['seconds']:.1f} s, peak memory {report['peak_memory_bytes'] / 2**30:.2f} GiB")
    return "\n".join(lines)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _by_split(values: np.ndarray) -> dict[str, Any]:
    return {
        split: None if np.isnan(value) else (int(value) if values.dtype == np.int64 else round(float(value), 6))
        for split, value in zip(SPLITS, values, strict=True)
    }
