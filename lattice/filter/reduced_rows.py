"""Copies of prepared data with fewer columns or rows, so that a smaller model trains without the raw files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.raw.vocabulary import vocabulary_path
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.runs.rows import RunData
from wukong_jax.schema import Schema, schema_to_json


def write_reduced_rows(data: RunData, reduced: Schema, output: Path) -> None:
    """Writes a prepared data folder with fewer columns and the same rows; see `write_rewritten_rows`.

    Args:
      data: the full rows.
      reduced: the smaller schema, resolved; see `feature_filter.reduce_schema`.
      output: output folder; must not exist.

    Raises:
      UserError: the folder exists or cannot be written, or rows cannot be read.
    """
    write_rewritten_rows(data, reduced, lambda columns: reduce_rows(columns, data.schema, reduced), output)


def write_rewritten_rows(data: RunData, schema: Schema, rewrite: Callable[[Columns], Columns], output: Path) -> None:
    """Writes a prepared data folder of rewritten rows: `schema.json`, `blocks/`, `vocabulary/`, `report.json`.

    Rows keep their order and splits, ids their meaning. The folder is written under a temporary name and renamed, so a
    folder named `output` is complete. The statistics of columns in the report are recomputed. Its other entries are
    copied, except that a generator's Bayes metrics are dropped if rows or labels are left out.

    Args:
      data: the full rows.
      schema: schema of the rewritten rows, resolved; its id columns are a subset of the full schema's.
      rewrite: maps rows of the data to rows of `schema`, the same number or fewer.
      output: output folder; must not exist.

    Raises:
      UserError: the folder exists or cannot be written, or rows cannot be read.
    """
    data.check()
    with write_whole_folder(output) as aside:
        (aside / "vocabulary").mkdir()
        _copy_vocabularies(data, schema, aside / "vocabulary")
        statistics = RowStatistics(schema)
        for split in SPLITS:
            _write_split(data, split, schema, rewrite, aside, statistics)
        (aside / "schema.json").write_text(schema_to_json(schema), encoding="utf-8")
        truncated = {name: bag["truncated_values"] for name, bag in data.report.get("bags", {}).items()}
        # labels are counted anew: a group's rows have fewer than the rows they come from
        copied = {key: value for key, value in data.report.items() if key != "training_label_sums"}
        report = copied | statistics.report(schema, truncated)
        rows = {split: data.splits[split].rows if split in data.splits else 0 for split in SPLITS}
        if report["rows"] != rows or schema.labels != data.schema.labels:
            report.pop("bayes", None)
        (aside / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def reduce_rows(columns: Columns, whole: Schema, reduced: Schema) -> Columns:
    """Removes dropped columns from rows.

    Args:
      columns: arrays [rows, ...] of the full schema.
      whole: the full schema.
      reduced: the smaller schema, with its columns in the same order.

    Returns:
      Arrays [rows, ...] of the smaller schema.
    """
    dense_names = {column.name for column in reduced.dense}
    id_names = {column.name for column in reduced.id_columns}
    dense = [place for place, column in enumerate(whole.dense) if column.name in dense_names]
    slots = [range(start, stop) for column, start, stop in whole.slot_ranges() if column.name in id_names]
    kept_slots = np.array([slot for part in slots for slot in part], np.int64)
    return dict(columns) | {"dense": columns["dense"][:, dense], "ids": columns["ids"][:, kept_slots]}


def _write_split(
    data: RunData,
    split: str,
    schema: Schema,
    rewrite: Callable[[Columns], Columns],
    directory: Path,
    statistics: RowStatistics,
) -> None:
    with BlockWriter(directory, split, schema, data.splits["train"].rows_per_block) as writer:
        if split not in data.splits:  # a split without rows stays empty
            return
        blocks = data.splits[split]
        for index in range(blocks.num_blocks):
            columns = rewrite(blocks.read(index))
            writer.append(columns)
            statistics.add(SPLITS.index(split), columns)


def _copy_vocabularies(data: RunData, reduced: Schema, directory: Path) -> None:
    """Copies each vocabulary under the name of its owner, which may be a different column than before."""
    before = {column.name: column.vocabulary for column in data.schema.id_columns}
    for column in reduced.id_columns:
        source = vocabulary_path(data.vocabulary, before[column.name])
        if column.vocabulary_of is None and source.exists():  # hashed and identity columns have none
            shutil.copyfile(source, vocabulary_path(directory, column.name))
