"""Reads a log from raw files, in order, and cuts it into periods."""

import dataclasses
import datetime
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.prefetch import prefetch
from wukong_jax.data.raw.bad_rows import BadRowPolicy, BadRows
from wukong_jax.data.raw.canonical_values import canonicalise_texts
from wukong_jax.data.raw.id_map import IdMap, find_rows
from wukong_jax.data.raw.input_files import find_input_files
from wukong_jax.data.raw.raw_files import DEFAULT_CHUNK_BYTES, read_raw_rows
from wukong_jax.data.raw.row_encoder import (
    EncodedRows,
    RowEncoder,
    bag_columns,
    count_threads,
    finish_rows,
    number_columns,
    raw_columns,
)
from wukong_jax.data.raw.vocabulary import ValueCodes
from wukong_jax.errors import UserError
from wukong_jax.online.rules import is_mapped
from wukong_jax.online.settings import Period
from wukong_jax.schema import Schema, Split

_SECONDS = {"hour": 3600, "day": 86_400}


@dataclasses.dataclass(frozen=True)
class LogPlace:
    """How far a log was read: everything up to a period."""

    key: int = -(2**62)  # of the last period: hours or days since 1970; of files, how many were before
    name: str = ""  # of that period
    done: tuple[str, ...] = ()  # names of files of which no row is left
    open: str = ""  # name of a file that also has later rows


@dataclasses.dataclass(frozen=True)
class LogPart:
    """Rows of one period from one chunk of a file; their ids are codes of that chunk."""

    encoded: EncodedRows
    forms: Mapping[str, pl.Series]  # canonical text of each code, by vocabulary
    domain_codes: ValueCodes | None
    skipped: int  # rows of the chunk that could not be read, counted with its first period


@dataclasses.dataclass(frozen=True)
class LogPeriod:
    """All rows of a period."""

    place: LogPlace  # after it
    parts: Sequence[LogPart]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(part.encoded.rows for part in self.parts)

    @property
    def skipped(self) -> int:
        """Number of rows that could not be read."""
        return sum(part.skipped for part in self.parts)


class LogReader:
    """Reads the periods of a log that lies in files, in the order of their names."""

    def __init__(self, schema: Schema, path: str, period: Period, on_bad_row: BadRowPolicy) -> None:
        """Reads nothing yet.

        Args:
          schema: schema of the files; its split is not used.
          path: a file, a folder or a glob pattern.
          period: kind of periods.
          on_bad_row: what to do with rows that cannot be read.

        Raises:
          UserError: the schema has no timestamp, which hours and days need.
        """
        if period != "file" and not schema.timestamp_columns:
            raise UserError(f"--period = {period}: the schema has no timestamp; give one, or --period=file")
        self._schema, self._path, self._period, self._on_bad_row = schema, path, period, on_bad_row
        self._owners = [column.name for column in schema.id_columns if is_mapped(column)]

    def read(self, after: LogPlace) -> Generator[LogPeriod, None, None]:
        """Yields the periods after a place, as far as files are there now.

        Raises:
          UserError: a file cannot be read, its rows are not in the order of time, or belong to a period that is done.
        """
        files = [file for file, _ in find_input_files([self._path], self._schema.source, Split())]
        self._check_order(files, after)
        done, place, parts = list(after.done), after, list[LogPart]()
        with ThreadPoolExecutor(count_threads()) as threads:
            for file in files:
                if file.name in after.done:
                    continue
                with closing(prefetch(self._encode_file(file, threads))) as chunks:
                    for part in chunks:
                        for key, own in self._split(part, len(done)):
                            if key <= after.key:
                                self._check_read_before(file, key, after)
                                continue
                            if key < place.key:
                                raise UserError(
                                    f"{file}, line {own.encoded.arrays['line'][0]}: a row of {self._name(key, file)} "
                                    f"after rows of {place.name}; sort the log by time, and its files by name"
                                )
                            if key > place.key and parts:
                                yield LogPeriod(dataclasses.replace(place, done=tuple(done), open=file.name), parts)
                                parts = []
                            place = LogPlace(key, self._name(key, file))
                            parts.append(own)
                done.append(file.name)
        if parts:
            yield LogPeriod(dataclasses.replace(place, done=tuple(done)), parts)

    def _check_order(self, files: Sequence[Path], after: LogPlace) -> None:
        names = [file.name for file in files]
        if len(set(names)) < len(names):
            raise UserError(f"config.data.path = {self._path!r}: two files have the same name; rename one")
        places = [place for place, name in enumerate(names) if name in after.done]
        late = [name for name in names[: max(places, default=0)] if name not in (*after.done, after.open)]
        if late:
            raise UserError(
                f"{late[0]}: sorts before {names[max(places)]}, which is done; give new files names that sort last"
            )

    def _check_read_before(self, file: Path, key: int, after: LogPlace) -> None:
        if file.name != after.open:
            raise UserError(
                f"{file}: has rows of {self._name(key, file)}, but the log is done up to {after.name}; a period must "
                "not go on in a file that comes later (or give --period=file, in a new --workdir)"
            )

    def _encode_file(self, file: Path, threads: ThreadPoolExecutor) -> Iterator[LogPart]:
        schema = self._schema
        needed, optional = raw_columns(schema)
        bad_rows = BadRows(self._on_bad_row)
        for raw in read_raw_rows(
            file,
            schema.source,
            needed + optional,
            bad_rows,
            numbers=number_columns(schema),
            bags=bag_columns(schema),
            allow_empty=True,
            chunk_bytes=DEFAULT_CHUNK_BYTES,
        ):
            # Codes of its own for each chunk: the values of a log have no end.
            codes = {name: ValueCodes() for name in self._owners}
            domain_codes = ValueCodes() if schema.domain is not None else None
            encoded = RowEncoder(schema, codes, domain_codes, threads).encode(raw, bad_rows)
            forms = {name: canonicalise_texts(own.texts()) for name, own in codes.items()}
            yield LogPart(encoded, forms, domain_codes, bad_rows.take().count)

    def _split(self, part: LogPart, file: int) -> Iterator[tuple[int, LogPart]]:
        """Yields (key, rows) of runs of rows with one key."""
        rows = part.encoded.rows
        if not rows:
            return
        if self._period == "file":
            yield file, part
            return
        keys = part.encoded.arrays["timestamp"] // _SECONDS[self._period]
        starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
        for start, stop in zip(starts, [*starts[1:], rows], strict=True):
            chosen = np.zeros(rows, bool)
            chosen[start:stop] = True
            whole = start == 0 and stop == rows
            encoded = part.encoded if whole else part.encoded.select(chosen)
            yield int(keys[start]), dataclasses.replace(part, encoded=encoded, skipped=0 if start else part.skipped)

    def _name(self, key: int, file: Path) -> str:
        if self._period == "file":
            return file.name
        moment = datetime.datetime.fromtimestamp(key * _SECONDS[self._period], datetime.UTC)
        return moment.strftime("%Y-%m-%d" if self._period == "day" else "%Y-%m-%d %H:00")


def count_values(period: LogPeriod, schema: Schema, vocabulary: str) -> pl.DataFrame:
    """Counts the values of a vocabulary in a period.

    Returns:
      Distinct canonical values: value (String), count (Int64).
    """
    frames = []
    slots = [range(start, stop) for column, start, stop in schema.slot_ranges() if column.vocabulary == vocabulary]
    for part in period.parts:
        codes = np.concatenate([part.encoded.arrays["ids"][slot] for own in slots for slot in own])
        forms = part.forms[vocabulary]
        counts = np.bincount(codes[codes >= 0], minlength=len(forms))
        frames.append(pl.DataFrame({"value": forms, "count": counts}, schema={"value": pl.String, "count": pl.Int64}))
    seen = pl.concat(frames).filter(pl.col("count") > 0, pl.col("value").is_not_null())
    return seen.group_by("value").agg(pl.col("count").sum())


def encode_period(period: LogPeriod, schema: Schema, maps: Mapping[str, IdMap], bad_rows: BadRows) -> Columns:
    """Gives the rows of a period the ids of id maps.

    Args:
      period: the period.
      schema: the resolved schema.
      maps: the id map of each vocabulary.
      bad_rows: receives rows of an unseen domain, and those beyond float32 when standardised.

    Returns:
      Columns as in a block.
    """
    parts = []
    for part in period.parts:
        tables = {name: np.append(find_rows(maps[name], forms), np.int32(-1)) for name, forms in part.forms.items()}
        parts.append(finish_rows(part.encoded, schema, tables, part.domain_codes, bad_rows)[0])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
