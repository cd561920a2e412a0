"""Prepares raw files in several processes: files are dealt out, and vocabularies, moments and blocks merged.

Each process reads a run of consecutive files, about the same bytes for all, and stores their rows with codes of its
own. Then they add up what splits need, count their training rows, and merge the counts: each vocabulary in one process,
moments chunk by chunk in the order of the files. With these, each writes the blocks whose first row it has. The rows
before its first block go to the process whose last block they complete.

Schema, vocabularies and blocks are those of one process, bit for bit; only the blocks' distribution over files differs.
So does the report's last digit where rows have weights that are no whole numbers.
"""

import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.merged_blocks import merge_split
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.preparation_warnings import list_warnings
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.raw.bad_rows import BadRowPolicy, BadRows
from wukong_jax.data.raw.canonical_values import canonicalise_texts
from wukong_jax.data.raw.exchange_folder import ExchangeFolder
from wukong_jax.data.raw.input_files import find_input_files
from wukong_jax.data.raw.numeric_transforms import ChunkMoments
from wukong_jax.data.raw.prepare import Preparation, Progress, check_output, write_json, write_schema
from wukong_jax.data.raw.provisional_rows import PlacedRows
from wukong_jax.data.raw.raw_files import DEFAULT_CHUNK_BYTES, check_source
from wukong_jax.data.raw.row_encoder import finish_rows, index_domains
from wukong_jax.data.raw.splits import TRAIN, build_split_rule
from wukong_jax.data.raw.vocabulary import build_vocabulary, load_vocabulary, save_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.files.checksum import checksum_bytes
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.schema import Schema
from wukong_jax.sharding.team import Team, find_team

_MOMENTS = [field.name for field in fields(ChunkMoments)]


def prepare_together(
    schema: Schema,
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    on_bad_row: BadRowPolicy = "stop",
    overwrite: bool = False,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    rows_per_block: int = 8192,
    progress: Progress = lambda line: None,
    team: Team | None = None,
) -> dict[str, Any]:
    """Prepares a data set in several processes, which all call this with the same arguments.

    Args:
      schema: see `prepare_data`; so are all others.
      inputs: files that every process sees.
      output: a folder on a disk that every process sees.
      on_bad_row: see `prepare_data`.
      overwrite: see `prepare_data`.
      chunk_bytes: see `prepare_data`.
      rows_per_block: see `prepare_data`.
      progress: see `prepare_data`.
      team: the processes; None: those that this one was started with.

    Returns:
      The report in process 0; nothing in the others.

    Raises:
      UserError: as `prepare_data`, or a process does not see the others' files.
    """
    started, team, output = time.perf_counter(), team or find_team(), Path(output)
    check_source(schema.source)
    index_domains(schema)
    files = find_input_files(inputs, schema.source, schema.split)
    listed = checksum_bytes("\n".join(str(file) for file, _ in files).encode())
    team.check_equal("checksum of the list of input files", listed, "give all processes the same files as --input")
    if team.is_lead:
        check_output(output, overwrite)
    with write_whole_folder(output, replace=overwrite) if team.is_lead else nullcontext() as made:
        aside = Path(team.tell("output", str(made)))
        exchange = ExchangeFolder(aside / "exchange", team)
        own = SharedPreparation(schema, aside, BadRows(on_bad_row), progress, team, exchange)
        statistics = own.run(deal_files(files, team.count)[team.index], chunk_bytes, rows_per_block)
        exchange.put_arrays("statistics", statistics.to_arrays())
        report = own.describe(started, files)
        if team.is_lead:
            for process in range(1, team.count):
                statistics.add_arrays(exchange.get_arrays("statistics", process))
            report = statistics.report(own.resolved, report.pop("truncated")) | report
            report["warnings"] = list_warnings(report, own.unseen_positives)
            for split in SPLITS:
                merge_split(aside, [own.part(process) for process in range(team.count)], split)
            exchange.remove()
            own.remove_parts()
            write_schema(aside, own.resolved)
            write_json(aside / "report.json", report)
    team.wait("the output")
    return report if team.is_lead else {}


def deal_files(files: Sequence[tuple[Path, int]], count: int) -> list[list[tuple[Path, int]]]:
    """Deals files out in order, each process about the same bytes; a file is never cut.

    Args:
      files: (file, split) pairs.
      count: number of processes.

    Returns:
      The files of each process, some of which may get none.
    """
    sizes = np.array([file.stat().st_size for file, _ in files], np.float64) + 1.0
    middles = np.cumsum(sizes) - sizes / 2
    owners = np.minimum((middles / sizes.sum() * count).astype(int), count - 1)
    return [[file for file, owner in zip(files, owners, strict=True) if owner == process] for process in range(count)]


class SharedPreparation(Preparation):
    """One process's part of a preparation."""

    def __init__(
        self, schema: Schema, aside: Path, bad_rows: BadRows, progress: Progress, team: Team, exchange: ExchangeFolder
    ) -> None:
        """Starts with nothing read.

        Args:
          schema: schema of the raw files.
          aside: the folder to write, which all processes see.
          bad_rows: receives this process's bad rows.
          progress: see `prepare_data`.
          team: the processes.
          exchange: what they pass to each other.
        """
        self._aside, self._team, self._exchange = aside, team, exchange
        super().__init__(schema, self.part(team.index), bad_rows, progress)
        self._first_position = 0  # of this process's first row, among all rows

    def part(self, process: int) -> Path:
        """Returns the folder of a process's provisional rows and blocks."""
        return self._aside / "parts" / str(process)

    def remove_parts(self) -> None:
        """Deletes what is left of the folders of all processes."""
        shutil.rmtree(self._aside / "parts")

    def run(self, files: Sequence[tuple[Path, int]], chunk_bytes: int, rows_per_block: int) -> RowStatistics:
        """Reads this process's files, resolves the schema with the others, and writes the blocks that begin here."""
        self._team.mark("reading the raw files", busy=True)
        for placed in self._encoded_rows(files, chunk_bytes):
            self._provisional.append(placed)
            self._progress(f"read {placed.first_position + placed.rows} rows, {placed.encoded.file}")
        self._share_what_was_read(files)
        self._count()
        self._resolve()
        statistics = self._write_share(rows_per_block)
        self._provisional.remove()
        return statistics

    def describe(self, started: float, files: Sequence[tuple[Path, int]]) -> dict[str, Any]:
        """Returns the report's entries about all processes, with `truncated`."""
        unit = 1 if sys.platform == "darwin" else 1024
        found = self._team.gather(
            "preparation",
            {
                "skipped": self._bad_rows.count,
                "examples": self._bad_rows.examples,
                "empty": self.empty_files,
                "truncated": self.truncated,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            },
        )
        bad_rows = self._bad_rows.start_again()
        truncated: dict[str, int] = {}
        for one in found:
            part = bad_rows.start_again()
            part.count, part.examples = one["skipped"], one["examples"]
            bad_rows.add(part)
            for name, lost in one["truncated"].items():
                truncated[name] = truncated.get(name, 0) + lost
        return {
            "truncated": truncated,
            "skipped_rows": bad_rows.count,
            "skipped_examples": bad_rows.examples,
            "empty_files": [name for one in found for name in one["empty"]],
            "inputs": [{"file": str(file), "bytes": file.stat().st_size} for file, _ in files],
            "processes": self._team.count,
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_bytes": max(one["peak"] for one in found),
        }

    def _check_rows(self, files: Sequence[tuple[Path, int]]) -> None:
        """Checks nothing: only all processes together know."""

    def _share_what_was_read(self, files: Sequence[tuple[Path, int]]) -> None:
        """Finds this process's first row, and texts of positive labels that no process has seen."""
        example = self._bad_rows.examples[:1]
        found = self._team.gather(
            "rows",
            [self._rows, len(files), len(self.empty_files), example, self.unseen_positives, _name_first(files)],
        )
        rows, counts, empty, examples, unseen, names = zip(*found, strict=True)
        first = next(name for name in names if name)
        if sum(counts) == sum(empty):
            raise UserError(f"input {first}: no rows in any of the {sum(counts)} files; change the input")
        if sum(rows) == 0:
            example = next(one[0] for one in examples if one)
            raise UserError(f"input {first}: every row was skipped as bad, first {example}")
        self._first_position, self._rows = sum(rows[: self._team.index]), sum(rows)
        self.unseen_positives = {
            label: [text for text in texts if all(text in one[label] for one in unseen)]
            for label, texts in self.unseen_positives.items()
        }

    def _read_placed(self, names: Any = None) -> Iterator[PlacedRows]:
        """Yields this process's rows with their positions among all rows."""
        for placed in self._provisional.read(names):
            yield replace(placed, first_position=placed.first_position + self._first_position)

    def _count(self) -> None:
        """Finds the splits, and counts this process's training rows."""
        split = self.resolved.split
        self._rule = build_split_rule(split, self._rows, self._provisional.timestamps, self._exchange.add_up)
        for placed in self._read_placed(self._counts.array_names | {"timestamp"}):
            self._counts.add(placed.encoded, placed.assign(self._rule) == TRAIN)
        self._check_training_rows(sum(self._team.gather("training rows", self._counts.rows)))

    def _resolve(self) -> None:
        """Merges the counts of all processes, and gives ids to this one's codes."""
        team, exchange = self._team, self._exchange
        team.mark("merging the vocabularies", busy=True)
        texts = {column.name: self._codes[column.name].texts() for column in self._owners}
        for number, column in enumerate(self._owners):
            counts = np.zeros(len(texts[column.name]), np.int64)
            known = self._counts.values[column.name][: len(counts)]
            counts[: len(known)] = known
            frame = pl.DataFrame({"value": texts[column.name], "count": counts}).filter(pl.col("count") > 0)
            exchange.put_table(f"vocabulary-{number}", frame)
        exchange.put_arrays("moments", _pack_moments(self._counts.chunks))
        domains = set().union(*map(set, team.gather("domains", sorted(self._list_domains()))))
        for number, column in enumerate(self._owners):
            if number % team.count == team.index:
                merged = exchange.get_tables(f"vocabulary-{number}").group_by("value").agg(pl.col("count").sum())
                vocabulary, _ = build_vocabulary(merged["value"], merged["count"].to_numpy(), column.min_count)
                save_vocabulary(vocabulary, self._aside / "vocabulary", column.name)
        team.wait("vocabularies")
        rows = {}
        for column in self._owners:
            vocabulary = load_vocabulary(self._aside / "vocabulary", column.name)
            rows[column.name] = vocabulary.rows
            self._id_tables[column.name] = np.append(_find_ids(texts[column.name], vocabulary.values), np.int32(-1))
        self._counts.replace_moments(
            chunk for process in range(team.count) for chunk in _unpack_moments(exchange.get_arrays("moments", process))
        )
        self._resolve_schema(rows, domains)

    def _write_share(self, rows_per_block: int) -> RowStatistics:
        """Writes the blocks whose first row this process has; the last ones end with the next processes' rows."""
        team, exchange = self._team, self._exchange
        team.mark("writing the blocks", busy=True)
        found = np.array(team.gather("rows by split", self._count_finished().tolist()))
        starts = found[: team.index].sum(axis=0)
        left = np.minimum(-starts % rows_per_block, found[team.index])  # rows of each split for earlier processes
        statistics = RowStatistics(self.resolved)
        heads: list[list[Columns]] = [[] for _ in SPLITS]
        with ExitStack() as stack:
            writers = [
                stack.enter_context(BlockWriter(self._directory, split, self.resolved, rows_per_block))
                for split in SPLITS
            ]
            for code, columns in self._finished_rows(self._read_placed(), statistics):
                count = int(min(left[code], len(columns["labels"])))
                if count:
                    heads[code].append({name: np.array(array[:count]) for name, array in columns.items()})
                    left[code] -= count
                if count < len(columns["labels"]):
                    writers[code].append({name: array[count:] for name, array in columns.items()})
                self._progress(f"wrote {sum(writer.rows for writer in writers)} rows")
            for code, parts in enumerate(heads):
                joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
                exchange.put_arrays(f"head-{code}", joined)
            team.wait("first rows")
            for code, writer in enumerate(writers):
                for process in range(team.index + 1, team.count):
                    if writer.rows % rows_per_block == 0:
                        break
                    head = exchange.get_arrays(f"head-{code}", process)
                    if head:
                        writer.append(head)
        return statistics

    def _count_finished(self) -> np.ndarray:
        """Counts this process's rows of each split, [3] int64, without those that are only now found to be bad."""
        counts = np.zeros(len(SPLITS), np.int64)
        may_refuse = self._domain_codes is not None or bool(self._counts.moments())
        refused = self._bad_rows.start_again()
        for placed in self._read_placed(None if may_refuse else ["timestamp"]):
            assigned = placed.assign(self._rule)
            if may_refuse:
                _, kept = finish_rows(placed.encoded, self.resolved, self._id_tables, self._domain_codes, refused)
                assigned = assigned[kept]
            counts += np.bincount(assigned, minlength=len(SPLITS))
        return counts


def _name_first(files: Sequence[tuple[Path, int]]) -> str:
    return str(files[0][0]) if files else ""


def _find_ids(texts: pl.Series, values: pl.Series) -> np.ndarray:
    """Returns the id of each text's canonical form in a vocabulary, [n] int32; 0 if it is out-of-vocabulary."""
    forms = pl.DataFrame({"value": canonicalise_texts(texts)})
    known = pl.DataFrame({"value": values, "id": np.arange(1, len(values) + 1, dtype=np.int32)})
    found = forms.join(known, on="value", how="left", maintain_order="left")
    return found["id"].fill_null(0).to_numpy().astype(np.int32)


def _pack_moments(chunks: Sequence[ChunkMoments]) -> dict[str, np.ndarray]:
    return {name: np.array([getattr(chunk, name) for chunk in chunks]) for name in _MOMENTS}


def _unpack_moments(arrays: dict[str, np.ndarray]) -> Iterator[ChunkMoments]:
    for index, rows in enumerate(arrays["rows"]):
        yield ChunkMoments(int(rows), *(arrays[name][index] for name in _MOMENTS[1:]))
