"""Prepares raw files as a folder with `blocks/`, `vocabulary/`, the resolved `schema.json` and `report.json`.

Raw files are parsed once. Their rows, encoded with provisional codes, are stored on disk beside the output (about the
size of the uncompressed final blocks), and the values of the training rows are counted: as rows are read if the split
of a row is known then, in a second pass otherwise. A last pass converts codes to ids and writes the blocks. Where no
block depends on later rows (hashed columns, nothing to standardise, a split by file or at random), rows are written as
they are read. The output is written to `OUTPUT.writing`, which is renamed when it is complete.

Stages run at the same time, each one chunk ahead of the next: parsing, encoding, storing and counting; converting,
forming blocks, compressing them. What is written does not depend on their timing.

Peak memory is about 210 MiB for the program, 20 times `chunk_bytes` (text, parsed form and arrays of the chunks under
way) and 120 bytes per distinct value of columns with a vocabulary; hash and identity columns need none. It does not
depend on the number of rows: with the default chunk of 16 MiB it was 495 MiB for one and 526 MiB for three million
Criteo-shaped rows with hashed columns. The report contains the measured peak.
"""

import dataclasses
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.prefetch import prefetch
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.preparation_warnings import list_warnings
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.raw.bad_rows import BadRowPolicy, BadRows
from wukong_jax.data.raw.canonical_values import canonicalise_texts
from wukong_jax.data.raw.input_files import find_input_files
from wukong_jax.data.raw.provisional_rows import PlacedRows, ProvisionalRows
from wukong_jax.data.raw.raw_files import DEFAULT_CHUNK_BYTES, RawRows, check_source, read_raw_rows
from wukong_jax.data.raw.row_encoder import (
    RowEncoder,
    bag_columns,
    count_threads,
    finish_rows,
    index_domains,
    number_columns,
    raw_columns,
)
from wukong_jax.data.raw.splits import TRAIN, SplitRule, build_split_rule
from wukong_jax.data.raw.training_counts import TrainingCounts
from wukong_jax.data.raw.vocabulary import ValueCodes, build_vocabulary, save_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.schema import CategoricalColumn, Schema, schema_to_json

Progress = Callable[[str], None]

_KNOWN_WHILE_READING = ("file", "random")  # kinds of split in which a row's split does not depend on later rows


def prepare_data(
    schema: Schema,
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    on_bad_row: BadRowPolicy = "stop",
    overwrite: bool = False,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    rows_per_block: int = 8192,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Prepares a data set from raw files.

    Args:
      schema: schema of the raw files; need not be resolved.
      inputs: raw files, folders of raw files, or glob patterns.
      output: the folder to create; it must not exist unless `overwrite` is set.
      on_bad_row: "stop" at the first row that cannot be read, or "skip", count and report such rows.
      overwrite: replace an existing prepared data set.
      chunk_bytes: bytes of raw text processed at once; the main control of memory use.
      rows_per_block: rows in each row block.
      progress: called with a line of text from time to time.

    Returns:
      The report, which is also written to `report.json`. Its `warnings` are lines about probable mistakes, to be shown.

    Raises:
      UserError: there is a mistake in the input, schema or output; no output is left behind.
    """
    started = time.perf_counter()
    check_source(schema.source)
    index_domains(schema)
    files = find_input_files(inputs, schema.source, schema.split)
    bad_rows = BadRows(on_bad_row)
    check_output(Path(output), overwrite)
    with write_whole_folder(Path(output), replace=overwrite) as aside:
        preparation = Preparation(schema, aside, bad_rows, progress)
        statistics = preparation.run(files, chunk_bytes, rows_per_block)
        report = statistics.report(preparation.resolved, preparation.truncated)
        report |= {
            "skipped_rows": bad_rows.count,
            "skipped_examples": bad_rows.examples,
            "empty_files": preparation.empty_files,
            "inputs": [{"file": str(file), "bytes": file.stat().st_size} for file, _ in files],
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_bytes": measure_peak_memory(),
        }
        report["warnings"] = list_warnings(report, preparation.unseen_positives)
        write_schema(aside, preparation.resolved)
        write_json(aside / "report.json", report)
    return report


class Preparation:
    """Runs the passes over the data and holds their results."""

    def __init__(self, schema: Schema, directory: Path, bad_rows: BadRows, progress: Progress) -> None:
        self.resolved = schema
        self.truncated: dict[str, int] = {}
        self.unseen_positives: dict[str, list[str]] = {}  # label -> texts of `positive` that no row has
        self.empty_files: list[str] = []
        self._directory, self._bad_rows, self._progress = directory, bad_rows, progress
        self._owners = [
            column for column in schema.id_columns if column.vocabulary_of is None and column.encoding == "vocabulary"
        ]
        self._codes = {column.name: ValueCodes() for column in self._owners}
        self._domain_codes = ValueCodes() if schema.domain is not None else None
        self._counts = TrainingCounts(schema)
        self._rows = 0
        self._provisional = ProvisionalRows(directory / "provisional")
        self._rule = SplitRule(schema.split)
        self._id_tables: dict[str, np.ndarray] = {}

    def run(self, files: Sequence[tuple[Path, int]], chunk_bytes: int, rows_per_block: int) -> RowStatistics:
        """Reads the files, resolves the schema and writes the blocks; returns statistics of the rows."""
        # Whether rows can be written as they are read, since nothing in a block depends on later rows.
        one_pass = self.resolved.split.by in _KNOWN_WHILE_READING and not self._counts.array_names
        with closing(prefetch(self._encoded_rows(files, chunk_bytes))) as rows:
            if one_pass:
                statistics = self._write(rows, rows_per_block)
                self._check_training_rows(statistics.training_rows)
                return statistics
            self._store(rows)
        self._check_training_rows(self._counts.rows)
        self._progress(f"counted {self._counts.rows} training rows")
        self._resolve()
        statistics = self._write(self._provisional.read(), rows_per_block)
        self._provisional.remove()
        return statistics

    def _store(self, rows: Iterator[PlacedRows]) -> None:
        """Stores the rows and counts the training rows, now or, if splits depend on all rows, in a second pass."""
        known = self.resolved.split.by in _KNOWN_WHILE_READING
        for placed in rows:
            self._provisional.append(placed)
            if known:
                self._counts.add(placed.encoded, placed.assign(self._rule) == TRAIN)
            self._progress(f"read {placed.first_position + placed.rows} rows, {placed.encoded.file}")
        if known:
            return
        self._rule = build_split_rule(self.resolved.split, self._rows, self._provisional.timestamps)
        with closing(prefetch(self._provisional.read(self._counts.array_names | {"timestamp"}))) as rows_again:
            for placed in rows_again:
                self._counts.add(placed.encoded, placed.assign(self._rule) == TRAIN)

    def _encoded_rows(self, files: Sequence[tuple[Path, int]], chunk_bytes: int) -> Iterator[PlacedRows]:
        """Yields the rows of all files with provisional codes."""
        schema = self.resolved
        with ThreadPoolExecutor(count_threads()) as threads:
            encoder = RowEncoder(schema, self._codes, self._domain_codes, threads)
            for file, file_split in files:
                read_before = self._rows + self._bad_rows.count
                with closing(prefetch(self._raw_rows(file, chunk_bytes))) as chunks:
                    for raw, refused in chunks:
                        self._bad_rows.add(refused)
                        encoded = encoder.encode(raw, self._bad_rows)
                        del raw  # the largest form of a chunk need not live while later stages use the rows
                        for name, lost in encoded.truncated.items():
                            self.truncated[name] = self.truncated.get(name, 0) + lost
                        first, self._rows = self._rows, self._rows + encoded.rows
                        yield PlacedRows(encoded, first, encoded.rows, file_split)
                if self._rows + self._bad_rows.count == read_before:
                    self.empty_files.append(str(file))
        self.unseen_positives = {
            label.name: [text for text in label.positive if text not in encoder.seen_positives[label.name]]
            for label in schema.labels
        }
        self._check_rows(files)

    def _check_rows(self, files: Sequence[tuple[Path, int]]) -> None:
        if len(self.empty_files) == len(files):
            raise UserError(f"input {files[0][0]}: no rows in any of the {len(files)} files; change the input")
        if self._rows == 0:
            raise UserError(f"input {files[0][0]}: every row was skipped as bad, first {self._bad_rows.examples[0]}")

    def _raw_rows(self, file: Path, chunk_bytes: int) -> Iterator[tuple[RawRows, BadRows]]:
        """Yields chunks of a file with the rows that were refused in each; so their order is that of the file."""
        schema = self.resolved
        needed, optional = raw_columns(schema)
        refused = self._bad_rows.start_again()
        for raw in read_raw_rows(
            file,
            schema.source,
            needed + optional,
            refused,
            numbers=number_columns(schema),
            bags=bag_columns(schema),
            allow_empty=True,
            chunk_bytes=chunk_bytes,
        ):
            yield raw, refused.take()

    def _check_training_rows(self, training_rows: int) -> None:
        if training_rows == 0:
            by = self.resolved.split.by
            raise UserError(f"split.by = {by!r}: leaves no training rows of {self._rows}; change the split")

    def _resolve(self) -> None:
        """Assigns ids to codes, and adds to the schema what was counted."""
        counts = self._counts
        rows: dict[str, int] = {}

        def give_ids(column: CategoricalColumn) -> None:
            texts = self._codes[column.name].texts()
            vocabulary, ids = build_vocabulary(texts, counts.values[column.name], column.min_count)
            save_vocabulary(vocabulary, self._directory / "vocabulary", column.name)
            rows[column.name] = vocabulary.rows
            self._id_tables[column.name] = np.append(ids, np.int32(-1))

        with ThreadPoolExecutor(count_threads()) as threads:
            list(threads.map(give_ids, self._owners))
        self._resolve_schema(rows, self._list_domains())

    def _list_domains(self) -> set[str]:
        """Returns the canonical domains of the training rows."""
        if self._domain_codes is None:
            return set()
        texts = canonicalise_texts(self._domain_codes.texts())
        return {texts[code] for code in self._counts.domains}

    def _resolve_schema(self, rows: Mapping[str, int], domains: set[str]) -> None:
        """Adds to the schema the rows of each vocabulary, the domains, and the moments of the training rows."""
        schema = self.resolved
        dense = list(schema.dense)
        for index, (mean, deviation) in self._counts.moments().items():
            dense[index] = dataclasses.replace(dense[index], mean=float(mean), standard_deviation=float(deviation))
        domain_values = tuple(index_domains(schema)) or tuple(sorted(domains))
        self.resolved = dataclasses.replace(
            schema,
            dense=tuple(dense),
            categorical=tuple(dataclasses.replace(c, rows=rows.get(c.name, c.rows)) for c in schema.categorical),
            sequences=tuple(dataclasses.replace(c, rows=rows.get(c.name, c.rows)) for c in schema.sequences),
            domain_values=domain_values,
        )

    def _write(self, rows: Iterator[PlacedRows], rows_per_block: int) -> RowStatistics:
        """Writes the blocks of every split and returns statistics of the rows."""
        statistics = RowStatistics(self.resolved)
        with ExitStack() as stack:
            writers = [
                stack.enter_context(BlockWriter(self._directory, split, self.resolved, rows_per_block))
                for split in SPLITS
            ]
            finished = stack.enter_context(closing(prefetch(self._finished_rows(rows, statistics))))
            for code, columns in finished:
                writers[code].append(columns)
                self._progress(f"wrote {sum(writer.rows for writer in writers)} of {self._rows} rows")
        return statistics

    def _finished_rows(self, chunks: Iterator[PlacedRows], statistics: RowStatistics) -> Iterator[tuple[int, Columns]]:
        """Yields (split, columns as in a block) and adds them to the statistics."""
        for placed in chunks:
            assigned = placed.assign(self._rule)
            columns, kept = finish_rows(
                placed.encoded, self.resolved, self._id_tables, self._domain_codes, self._bad_rows
            )
            assigned = assigned[kept]
            for code in np.unique(assigned):
                part = columns
                if (assigned != code).any():
                    rows = np.flatnonzero(assigned == code)
                    part = {name: _take_rows(array, rows) for name, array in columns.items()}
                statistics.add(code, part)
                yield code, part


def _take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns rows of an array in the array's own memory order."""
    return array.take(rows, axis=0) if array.flags.c_contiguous else array.T.take(rows, axis=1).T


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses an output that exists, unless it is a data set that may be replaced.

    Raises:
      UserError: it does.
    """
    if not output.exists():
        return
    if not overwrite:
        raise UserError(f"output {output}: exists; choose another folder or pass --overwrite")
    if not (output / "schema.json").is_file() or not (output / "blocks").is_dir():
        raise UserError(f"output {output}: not a prepared data set, so it is not overwritten; choose another folder")


def write_schema(directory: Path, resolved: Schema) -> None:
    """Writes `schema.json`; raises a UserError if it cannot be written."""
    _write_text(directory / "schema.json", schema_to_json(resolved))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file; raises a UserError if it cannot be written."""
    _write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); free space or choose another output") from None


def measure_peak_memory() -> int:
    """Returns the largest memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
