"""Writes several prepared data sets as one; see `merged_schema` and `merged_vocabulary`."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lattice.merging.merged_schema import describe_differences, merge_schemas, rename_columns
from lattice.merging.merged_vocabulary import merge_vocabularies
from lattice.merging.row_streams import KeyedRows, is_in_order_of_time, merge_streams, read_keyed_rows
from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.preparation_warnings import list_warnings
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.raw.data_sets import DataSetSchemas, save_data_sets
from wukong_jax.data.raw.prepare import measure_peak_memory
from wukong_jax.data.raw.translated_rows import RowTranslator
from wukong_jax.data.raw.vocabulary import load_vocabulary, save_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.runs.rows import RunData, open_run_data
from wukong_jax.schema import CategoricalColumn, Schema, schema_to_json

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One of the data sets to merge."""

    name: str
    data: RunData
    schema: Schema  # as in the data, with columns renamed

    def count_rows(self, split: str) -> int:
        """Returns the number of rows of a split."""
        return self.data.splits[split].rows if split in self.data.splits else 0


def merge_datasets(
    inputs: Mapping[str, str], output: Path, renamed: Mapping[str, str] | None = None, say: Say = lambda line: None
) -> dict[str, Any]:
    """Writes several prepared data sets as one, whose domains tell them apart.

    Rows are merged within each split: by time if all data sets have timestamps and their rows are in order of time,
    else interleaved evenly. One block of each data set and the vocabularies are in memory.

    Args:
      inputs: prepared folders, or their URLs on an object store, by name of the data set.
      output: folder to create; must not exist.
      renamed: new names of columns and labels, by "data set:name".
      say: prints a line of text.

    Returns:
      The report, which is also written to `report.json`; "merged" tells the order, the rows of each data set, and in
      lines of text what they share.

    Raises:
      UserError: a folder cannot be read or written, or the schemas do not fit together.
    """
    started = time.perf_counter()
    sets = _open(inputs, renamed or {}, say)
    schemas = {one.name: one.schema for one in sets}
    merged = merge_schemas(schemas, {one.name: one.count_rows("train") for one in sets})
    hindrance = _find_hindrance(sets, merged)
    by_time = not hindrance
    with write_whole_folder(output) as aside:
        merged, tables = _write_vocabularies(sets, merged, aside / "vocabulary")
        statistics = RowStatistics(merged)
        translators = [RowTranslator(one.name, one.schema, merged, own) for one, own in zip(sets, tables, strict=True)]
        size = max(one.data.splits["train"].rows_per_block for one in sets)
        for split in SPLITS:
            with BlockWriter(aside, split, merged, size) as writer:
                streams = [
                    _translate(one, split, by_time, translator)
                    for one, translator in zip(sets, translators, strict=True)
                ]
                for columns in merge_streams(streams):
                    writer.append(columns)
                    statistics.add(SPLITS.index(split), columns)
            say(f"wrote {writer.rows} rows of {split}")
        save_data_sets(aside, {one.name: DataSetSchemas(one.data.schema, one.schema) for one in sets})
        (aside / "schema.json").write_text(schema_to_json(merged), encoding="utf-8")
        report = statistics.report(merged, _sum_truncated(sets))
        report |= _describe(sets, schemas, merged, hindrance) | {"seconds": round(time.perf_counter() - started, 3)}
        report["warnings"] = list_warnings(report, {})
        text = json.dumps(report, indent=1, allow_nan=False) + "\n"
        (aside / "report.json").write_text(text, encoding="utf-8")
    return report


def _open(inputs: Mapping[str, str], renamed: Mapping[str, str], say: Say) -> list[DataSet]:
    names: dict[str, dict[str, str]] = {name: {} for name in inputs}
    for key, new in renamed.items():
        source, colon, column = key.partition(":")
        if not colon or source not in inputs:
            raise UserError(f"--rename = {key}={new}: not SET:COLUMN=NEW with a set of {', '.join(inputs)}")
        names[source][column] = new
    sets = []
    for name, path in inputs.items():
        data = open_run_data(DataConfig("blocks", path=path), Path(), say)
        sets.append(DataSet(name, data, rename_columns(data.schema, names[name], name)))
    return sets


def _find_hindrance(sets: list[DataSet], merged: Schema) -> str:
    """Tells why the rows cannot be merged by time; empty if they can."""
    if merged.timestamp is None:
        return f"{' and '.join(one.name for one in sets if not one.schema.timestamp_columns)} without timestamps"
    for one in sets:
        for split, blocks in one.data.splits.items():
            if not is_in_order_of_time(blocks):
                return f"{split} rows of {one.name} not in order of time"
    return ""


def _list_owners(schema: Schema) -> list[CategoricalColumn]:
    return [c for c in schema.id_columns if c.vocabulary_of is None and c.encoding == "vocabulary"]


def _write_vocabularies(
    sets: list[DataSet], merged: Schema, folder: Path
) -> tuple[Schema, list[dict[str, np.ndarray]]]:
    """Writes the union of each vocabulary; returns the schema with their rows, and each data set's tables of ids."""
    tables: list[dict[str, np.ndarray]] = [{} for _ in sets]
    rows = {}
    for owner in _list_owners(merged):
        places, loaded = [], []
        for place, one in enumerate(sets):
            for own, before in zip(one.schema.id_columns, one.data.schema.id_columns, strict=True):
                if own.name == owner.name:
                    places.append(place)
                    loaded.append(load_vocabulary(one.data.vocabulary, before.name))
        union, found = merge_vocabularies(loaded)
        save_vocabulary(union, folder, owner.name)
        rows[owner.name] = union.rows
        for place, table in zip(places, found, strict=True):
            tables[place][owner.name] = table

    def resolve(columns: tuple[CategoricalColumn, ...]) -> tuple[CategoricalColumn, ...]:
        return tuple(dataclasses.replace(column, rows=rows.get(column.name, column.rows)) for column in columns)

    folder.mkdir(exist_ok=True)
    resolved = dataclasses.replace(merged, categorical=resolve(merged.categorical), sequences=resolve(merged.sequences))
    return resolved, tables


def _translate(one: DataSet, split: str, by_time: bool, translator: RowTranslator) -> Iterator[KeyedRows]:
    if split in one.data.splits:
        for keys, columns in read_keyed_rows(one.data.splits[split], by_time):
            yield keys, translator.translate(columns)


def _sum_truncated(sets: list[DataSet]) -> dict[str, int]:
    """Returns the values that lost their slot when the data sets were prepared, by bag."""
    truncated: dict[str, int] = {}
    for one in sets:
        bags = one.data.report.get("bags", {})
        for own, before in zip(one.schema.id_columns, one.data.schema.id_columns, strict=True):
            lost = bags.get(before.name, {}).get("truncated_values", 0)
            truncated[own.name] = truncated.get(own.name, 0) + lost
    return truncated


def _describe(sets: list[DataSet], schemas: Mapping[str, Schema], merged: Schema, hindrance: str) -> dict[str, Any]:
    """Returns the entries of the report that are not statistics of the merged rows."""
    return {
        "skipped_rows": sum(one.data.report.get("skipped_rows", 0) for one in sets),
        "skipped_examples": [line for one in sets for line in one.data.report.get("skipped_examples", [])],
        "inputs": [{"file": str(one.data.directory)} for one in sets],
        "peak_memory_bytes": measure_peak_memory(),
        "merged": {
            "order": f"interleaved evenly ({hindrance})" if hindrance else "by time",
            "rows": {one.name: {split: one.count_rows(split) for split in SPLITS} for one in sets},
            "columns": describe_differences(schemas, merged),
        },
    }
