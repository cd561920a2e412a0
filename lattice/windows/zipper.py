"""Lattice Zipper (Lattice 3.2.1): training rows with mixed attribution windows, from impressions and conversions.

A conversion may take days. With a short attribution window, rows are fresh but labels miss later conversions; with the
longest, labels are complete but rows are days old. Zipper assigns one of K windows to each impression and emits it
once, when this window closes. The model has one head per window on one backbone; the longest window's head is used for
serving.

    impressions (row blocks in time order) + conversion log -> row blocks whose training rows are in emission order

A window's head is an objective (`window_labels`), so any model can be trained on the rows without changes. Training
rows are those emitted up to a cut-off `now`: impressions whose window is still open are missing, as in production. A
row's timestamp is that of its impression. Labels of objectives that are not delayed are assumed to be known when the
first window closes.

All validation and test rows are kept in their order. With a conversion log of their split they have the labels of all
windows, so each head can be evaluated by its own window and by the longest. Without one they only have the final label,
which is taken as the longest window's; the shorter windows are masked.

`policy` can also assign one window to all impressions, as a baseline. The schema still has all K heads; the report
names the one used for serving.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lattice.windows.attribution_windows import AttributionWindows
from lattice.windows.event_replay import (
    FirstConversions,
    Policy,
    build_policy,
    compare_policies,
    replay,
)
from lattice.windows.window_labels import build_window_labels, name_head
from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.conversion_log import ConversionLog
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter, RowBlocks, open_row_blocks
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.schema import Schema, schema_to_json


@dataclasses.dataclass(frozen=True)
class ZipperSettings:
    """Settings of Zipper."""

    objectives: tuple[str, ...]  # names of the delayed objectives
    windows: AttributionWindows = dataclasses.field(default_factory=AttributionWindows)
    policy: str = "zipper"  # "zipper", "longest" or the name of a window
    now: int | None = None  # cut-off in seconds; None: time of the first validation or test row
    signature: tuple[str, ...] = ("user", "item")  # id columns; with the timestamp they identify an impression
    last_rows: int | None = None  # keep only this many latest emissions, to compare policies at equal rows


def write_zipped(
    impressions: str | Path, conversions: Mapping[str, ConversionLog], output: str | Path, settings: ZipperSettings
) -> dict[str, Any]:
    """Writes a prepared data directory whose training rows are the emissions up to the cut-off.

    The directory is written under a temporary name and renamed, so a directory named `output` is complete.

    Args:
      impressions: a prepared data directory with timestamps, its training rows in time order.
      conversions: conversion log of "train", and optionally of "validation" and "test"; row numbers start at 0 in each
        split.
      output: output directory; must not exist.
      settings: settings of Zipper.

    Returns:
      The report: the same as for prepared raw files, that of the impressions under "impressions", and under "zipper":
      "policy", "windows" (name to seconds), "shares", "seed", "signature", "now", "training_rows", "serving" (objective
      to the label column used for serving), "truth" (objective to the label column of the longest window),
      "evaluation_windows" (split to "all" or "longest": the windows whose labels its rows have) and "policies", see
      `event_replay.compare_policies`.

    Raises:
      UserError: a folder cannot be read or written, a log does not match its rows, or there are no training rows.
    """
    output = Path(output)
    with write_whole_folder(output) as aside:
        zipping = _Zipping(Path(impressions), conversions, settings)
        described = {"zipper": zipping.describe(), "impressions": load_report(Path(impressions) / "report.json")}
        (aside / "schema.json").write_text(schema_to_json(zipping.resolved), encoding="utf-8")
        statistics = zipping.write(aside)
        report = statistics.report(zipping.resolved, {}) | described
        (aside / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


class _Zipping:
    """Opens one directory of impressions and writes its training and evaluation rows."""

    def __init__(self, directory: Path, conversions: Mapping[str, ConversionLog], settings: ZipperSettings) -> None:
        self._directory, self._settings = directory, settings
        self._splits = {split: open_row_blocks(directory, split) for split in SPLITS}
        schema = self._splits["train"].schema
        if not schema.timestamp_columns:
            raise UserError(f"impressions {directory}: the schema has no timestamp column, which Zipper needs")
        if "train" not in conversions:
            raise UserError("conversions: none of the training rows; give the log of that split")
        windows = settings.windows
        self._labels = build_window_labels(schema, settings.objectives, windows.names, windows.seconds)
        self.resolved = dataclasses.replace(schema, labels=self._labels.labels)
        self._policy = self._build_policy(settings.policy, schema)
        delayed = [[label.name for label in schema.labels].index(name) for name in settings.objectives]
        self._conversions = {
            split: FirstConversions(log, delayed, self._splits[split].rows, f"conversions of split {split!r}")
            for split, log in conversions.items()
        }
        self._now = self._find_first_evaluation() if settings.now is None else settings.now

    def describe(self) -> dict[str, Any]:
        """Returns the "zipper" part of the report; raises a UserError if nothing is emitted by the cut-off."""
        settings, windows = self._settings, self._settings.windows
        policies = [self._policy] + [
            self._build_policy(name, self._splits["train"].schema)
            for name in ("zipper", *windows.names)
            if name != self._policy.name
        ]
        compared = compare_policies(
            self._splits["train"], policies, windows, self._conversions["train"], self._now, self._where("train")
        )
        self._emitted = compared[self._policy.name]["emitted"]
        if not self._emitted:
            raise UserError(
                f"now = {self._now}: policy {self._policy.name!r} has emitted nothing by then; choose a later time or "
                "shorter windows"
            )
        if settings.last_rows is not None and not 1 <= settings.last_rows <= self._emitted:
            raise UserError(
                f"last_rows = {settings.last_rows}: policy {self._policy.name!r} has emitted {self._emitted} rows by "
                "the cut-off; take 1 to that many"
            )
        return {
            "policy": self._policy.name,
            "windows": dict(zip(windows.names, windows.seconds, strict=True)),
            "shares": list(windows.drawing_shares),
            "seed": windows.seed,
            "signature": list(settings.signature),
            "now": self._now,
            "training_rows": self._emitted if settings.last_rows is None else settings.last_rows,
            "serving": {name: name_head(name, windows.names[self._policy.choices[-1]]) for name in settings.objectives},
            "truth": {name: name_head(name, windows.names[-1]) for name in settings.objectives},
            "evaluation_windows": {split: "all" if split in self._conversions else "longest" for split in SPLITS[1:]},
            "policies": compared,
        }

    def write(self, directory: Path) -> RowStatistics:
        """Writes the vocabularies and the blocks of every split; returns the statistics of the rows."""
        vocabulary = self._directory / "vocabulary"
        if vocabulary.is_dir():
            shutil.copytree(vocabulary, directory / "vocabulary")
        statistics = RowStatistics(self.resolved)
        for place, split in enumerate(SPLITS):
            chunks = self._training_rows() if split == "train" else self._evaluation_rows(split)
            with BlockWriter(directory, split, self.resolved) as writer:
                for rows in chunks:
                    writer.append(rows)
                    statistics.add(place, rows)
        return statistics

    def _training_rows(self) -> Iterator[Columns]:
        dropped = 0 if self._settings.last_rows is None else self._emitted - self._settings.last_rows
        for rows in self._emitted_rows():
            count = len(rows["timestamp"])
            if dropped < count:
                yield {name: array[max(dropped, 0) :] for name, array in rows.items()}
            dropped -= count

    def _emitted_rows(self) -> Iterator[Columns]:
        emissions = replay(
            self._splits["train"],
            self._policy,
            self._settings.windows.seconds,
            self._conversions["train"],
            self._now,
            self._where("train"),
        )
        for part in emissions:
            yield _relabel(
                part.rows,
                self._labels.judge(part.rows["labels"], part.rows["label_mask"], part.window, part.converted),
            )

    def _evaluation_rows(self, split: str) -> Iterator[Columns]:
        first_row, known = 0, self._conversions.get(split)
        for rows in _read_blocks(self._splits[split]):
            if known is None:
                judged = self._labels.judge_by_longest(rows["labels"], rows["label_mask"])
            else:
                judged = self._labels.judge_by_all(rows["labels"], rows["label_mask"], known.delays(first_row, rows))
            yield _relabel(rows, judged)
            first_row += len(rows["timestamp"])

    def _find_first_evaluation(self) -> int:
        """Returns the time of the first evaluation row; training rows must be emitted before it."""
        times = [int(rows["timestamp"].min()) for split in SPLITS[1:] for rows in _read_blocks(self._splits[split])]
        if not times:
            raise UserError("now = None: there is no validation or test row to take it from; give the cut-off")
        return min(times)

    def _build_policy(self, name: str, schema: Schema) -> Policy:
        return build_policy(name, self._settings.windows, self._settings.signature, schema)

    def _where(self, split: str) -> str:
        return f"impressions {self._directory}, split {split!r}"


def load_report(path: Path) -> dict[str, Any]:
    """Reads the report of the impressions; empty if there is none."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); prepare the impressions again, or remove it") from None


def _relabel(rows: Columns, judged: tuple[np.ndarray, np.ndarray]) -> Columns:
    return {**rows, "labels": judged[0], "label_mask": judged[1]}


def _read_blocks(blocks: RowBlocks) -> Iterator[Columns]:
    for index in range(blocks.num_blocks):
        yield blocks.read(index)
