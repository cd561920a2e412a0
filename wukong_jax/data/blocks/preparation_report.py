"""Collects statistics of a prepared data set while it is written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.label_sums import add_labels
from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.schema import Schema

TRAIN = 0  # position in SPLITS
_FIRST_ROWS = 256
_NOTABLE_UNKNOWN = 0.05  # share of unknown values from which a column is printed
_LINES_SHOWN = 12
_SUMS = ("rows", "observed", "positive", "used", "unknown", "domains", "training_sums")  # attributes of RowStatistics


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
        domains = max(len(resolved.domain_values), 1)
        self._domains = np.zeros((splits, domains), np.int64)
        self._dense_varies, self._slot_varies = _Varies(), _Varies()
        self._dense_names = [column.name for column in resolved.dense]
        self._training_sums = np.zeros((domains, len(resolved.labels), 2))  # see `sum_labels`

    @property
    def rows(self) -> int:
        """Number of rows of all splits so far."""
        return int(self._rows.sum())

    @property
    def training_rows(self) -> int:
        """Number of training rows so far."""
        return int(self._rows[TRAIN])

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
        if split == TRAIN and len(columns["labels"]):
            add_labels(self._training_sums, columns)
            self._dense_varies.add(columns["dense"])
            self._slot_varies.add(columns["ids"])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the sums as arrays by name, for `add_arrays` of another process."""
        arrays = {name: getattr(self, f"_{name}") for name in _SUMS}
        for name in ("dense_varies", "slot_varies"):
            first, constant = getattr(self, f"_{name}").state
            arrays |= {f"{name}_first": first, f"{name}_constant": constant}
        return arrays

    def add_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds the sums of later rows, as `to_arrays` returned them."""
        for name in _SUMS:
            getattr(self, f"_{name}")[...] += arrays[name]
        for name in ("dense_varies", "slot_varies"):
            getattr(self, f"_{name}").merge(arrays[f"{name}_first"], arrays[f"{name}_constant"])

    def report(self, resolved: Schema, truncated: dict[str, int]) -> dict[str, Any]:
        """Builds a report with rows, rates and shares by split.

        Args:
          resolved: schema of the columns.
          truncated: for each bag or sequence, the number of values dropped for lack of a slot, over all rows.

        Returns:
          A mapping of JSON values; rates and shares without rows are null. `training_label_sums` holds, for each domain
          ("all" if there is none) and objective, the summed weights of the positive and of the observed training rows;
          `constant_columns` names the features that are equal in all training rows.
        """
        report: dict[str, Any] = {"schema": resolved.name, "rows": _by_split(self._rows)}
        report["label_rate"] = {
            label.name: _by_split(_share(self._positive[:, index], self._observed[:, index]))
            for index, label in enumerate(resolved.labels)
        }
        classes = (self._positive > 0).astype(np.int64) + (self._observed > self._positive)
        report["label_classes"] = {
            label.name: _by_split(classes[:, index]) for index, label in enumerate(resolved.labels)
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
        report["constant_columns"] = self._constant_columns()
        report["training_label_sums"] = {
            domain: {
                label.name: self._training_sums[index, objective].tolist()
                for objective, label in enumerate(resolved.labels)
            }
            for index, domain in enumerate(resolved.domain_values or ("all",))
        }
        return report

    def _constant_columns(self) -> list[str]:
        dense = [name for index, name in enumerate(self._dense_names) if not self._dense_varies.any(index, index + 1)]
        return dense + [column.name for column, start, stop in self._slots if not self._slot_varies.any(start, stop)]


class _Varies:
    """Finds out which columns vary; only those that did not so far are looked at."""

    def __init__(self) -> None:
        self._first: np.ndarray | None = None
        self._constant = np.zeros(0, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Adds rows, [rows, columns]."""
        if self._first is None:
            self._first, self._constant = values[0].copy(), np.arange(values.shape[1])
        still = self._constant
        if len(still):
            few = values[:_FIRST_ROWS, still]  # enough for most columns
            still = still[(few == self._first[still]).all(axis=0)]
            self._constant = still[(values[:, still] == self._first[still]).all(axis=0)]

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """The first row, [1, columns], or [0, 0] if there is none; and the columns that are constant so far."""
        return np.zeros((0, 0)) if self._first is None else self._first[None], self._constant

    def merge(self, first: np.ndarray, constant: np.ndarray) -> None:
        """Adds rows of which another process kept this state."""
        if not len(first):
            return
        if self._first is None:
            self._first, self._constant = first[0], constant
            return
        still = np.intersect1d(self._constant, constant)
        self._constant = still[first[0][still] == self._first[still]]

    def any(self, start: int, stop: int) -> bool:
        """Whether any of the columns from `start` to before `stop` varies."""
        return stop - start > int(((self._constant >= start) & (self._constant < stop)).sum())


def format_report(report: Mapping[str, Any]) -> str:
    """Formats a report as text: rows and label rates by split, rows by domain, unknown values, tables, time, memory."""
    lines = [f"{'split':<12}{'rows':>14}" + "".join(f"{name:>16}" for name in report["label_rate"])]
    for split, rows in report["rows"].items():
        rates = [rates[split] for rates in report["label_rate"].values()]
        shown = "".join(f"{'-' if rate is None else f'{rate:.4f}':>16}" for rate in rates)
        lines.append(f"{split:<12}{rows:>14,}" + shown)
    domains = sorted(report.get("domain_rows", {}).items(), key=lambda item: -sum(item[1].values()))
    lines += _format_table("rows by domain", domains, lambda rows: f"{rows:,}")
    unknown = [
        (name, shares) for name, shares in report["unknown_share"].items() if _largest(shares) >= _NOTABLE_UNKNOWN
    ]
    unknown.sort(key=lambda item: -_largest(item[1]))
    lines += _format_table("share of unknown values", unknown, lambda share: "-" if share is None else f"{share:.4f}")
    tables = report["vocabulary_rows"]
    lines.append(f"{sum(tables.values()):,} rows in {len(tables)} tables; {report['skipped_rows']:,} bad rows skipped")
    if empty := report.get("empty_files"):
        lines.append(f"{len(empty):,} of {len(report['inputs']):,} files without rows, first {empty[0]}")
    lines += [f"  skipped: {example}" for example in report["skipped_examples"][:3]]
    lines.append(f"{report['seconds']:.1f} s, peak memory {report['peak_memory_bytes'] / 2**30:.2f} GiB")
    return "\n".join(lines)


def _format_table(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]], form: Callable[[Any], str]) -> list[str]:
    """Formats the values of each split by name; nothing without rows."""
    if not rows:
        return []
    lines = [f"{title:<28}" + "".join(f"{split:>14}" for split in SPLITS)]
    for name, values in rows[:_LINES_SHOWN]:
        lines.append(f"  {name:<26}" + "".join(f"{form(values[split]):>14}" for split in SPLITS))
    return lines + ([f"  and {len(rows) - _LINES_SHOWN} more, see report.json"] if len(rows) > _LINES_SHOWN else [])


def _largest(shares: Mapping[str, float | None]) -> float:
    return max((share for share in shares.values() if share is not None), default=0.0)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _by_split(values: np.ndarray) -> dict[str, Any]:
    return {
        split: None if np.isnan(value) else (int(value) if values.dtype == np.int64 else round(float(value), 6))
        for split, value in zip(SPLITS, values, strict=True)
    }
