"""Encodes rows held in memory, again and again, with one schema and its vocabularies.

A few rows that come as mappings are encoded one by one where their values are plain (see `plain_rows`). Frames, many
rows, and rows with other values go the way of files: through `RowEncoder` and `finish_rows`, as columns. Rows of a list
are put in frames by the types of their values, so that a row is encoded as if it came alone: in one column with 2.5,
the integer 2^60 would be a float that is no exact id.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from wukong_jax.data.blocks.batch import COLUMN_DTYPES
from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.new_rows import FRAME, build_frame, split_frame
from wukong_jax.data.raw.plain_rows import PlainEncoder
from wukong_jax.data.raw.raw_files import RawRows
from wukong_jax.data.raw.row_encoder import RowEncoder, finish_rows, raw_columns
from wukong_jax.data.raw.row_values import describe_unusable, find_kind, join_plain_rows, to_series
from wukong_jax.data.raw.vocabulary import ValueCodes, VocabularyIds, load_vocabulary
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema

_INPUTS = ("dense", "ids", "domain")
_FIX = "fix the row"
_MANY_ROWS = 256  # from here on, columns take less time than single rows (measured with 39 columns)


class MemoryEncoder:
    """Encodes rows for scoring; its methods may be called from several threads."""

    def __init__(self, schema: Schema, vocabularies: Path) -> None:
        """Loads the vocabularies.

        Args:
          schema: the resolved schema.
          vocabularies: folder of the vocabularies.

        Raises:
          UserError: a vocabulary is missing or damaged, or the schema is of merged data sets.
        """
        schema.source.require_raw_files()
        self._schema = schema
        self._names = raw_columns(schema)[0]
        self._ids = {
            column.name: VocabularyIds(load_vocabulary(vocabularies, column.name))
            for column in schema.id_columns
            if column.vocabulary_of is None and column.encoding == "vocabulary"
        }
        self._plain = PlainEncoder(schema, self._ids)

    def encode(self, rows: Any) -> dict[str, np.ndarray]:
        """Encodes rows.

        Args:
          rows: a list of mappings from column to value, or what `build_frame` takes.

        Returns:
          The columns `dense`, `ids` and `domain` of a batch, in the order of the rows.

        Raises:
          UserError: a column is missing, or a value cannot be read.
        """
        if isinstance(rows, list | tuple):
            columns, errors = self.encode_each(rows)
            if errors:
                first = min(errors)
                raise UserError(errors[first])
            return columns
        bad_rows = BadRows("stop", fix=_FIX)
        parts = [self._finish(raw, bad_rows)[0] for raw in split_frame(self._schema, build_frame(rows))]
        return {name: np.concatenate([part[name] for part in parts]) for name in _INPUTS} if parts else self._empty(0)

    def encode_each(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Encodes rows, leaving out those that cannot be read.

        Args:
          rows: mappings from column to value.

        Returns:
          The columns of the other rows, in order; and the message of each row that was left out, by its position.
        """
        columns = self._empty(len(rows))
        errors = self._encode_together(rows, columns) if len(rows) >= _MANY_ROWS else None
        if errors is None:
            errors = {}
            others = self._plain.encode(rows, columns)
            for group in self._group(rows, others, errors):
                self._encode_group(group, columns, errors)
        if errors:
            kept = np.ones(len(rows), bool)
            kept[list(errors)] = False
            columns = {name: array[kept] for name, array in columns.items()}
        return columns, errors

    def _encode_together(self, rows: Sequence[Any], columns: dict[str, np.ndarray]) -> dict[int, str] | None:
        """Encodes rows as columns of one type each; returns the errors, or None where they must be taken apart."""
        frame = join_plain_rows(self._names, rows)
        if frame is None:
            return None
        try:
            return self._encode_frame(_Group(np.arange(len(rows)), frame), columns)
        except UserError:  # a type that does not fit the schema: rows with None in its place may be encoded
            return None

    def _empty(self, rows: int) -> dict[str, np.ndarray]:
        shapes = self._schema.column_shapes()
        return {name: np.zeros((rows, *shapes[name]), COLUMN_DTYPES[name]) for name in _INPUTS}

    def _group(
        self, rows: Sequence[Mapping[str, Any]], places: Sequence[int], errors: dict[int, str]
    ) -> Iterator["_Group"]:
        """Yields groups of rows whose values have the same types; missing values have any type."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place in places:
            row = rows[place]
            problem = self._find_missing(row)
            if problem is None:
                kinds = tuple(find_kind(row[name]) for name in self._names)
                problem = next(
                    (
                        describe_unusable(name, row[name])
                        for name, kind in zip(self._names, kinds, strict=True)
                        if kind == "unusable"
                    ),
                    None,
                )
            if problem is not None:
                errors[place] = f"{FRAME}, line {place + 1}, {problem}; {_FIX}"
            else:
                groups.setdefault(kinds, []).append(place)
        for kinds, own in groups.items():
            series = [
                to_series(name, kind, [rows[place][name] for place in own])
                for name, kind in zip(self._names, kinds, strict=True)
            ]
            yield _Group(np.array(own), pl.DataFrame(series))

    def _find_missing(self, row: Any) -> str | None:
        if not isinstance(row, Mapping):
            return f"a {type(row).__name__}: expected a mapping from column to value"
        absent = [name for name in self._names if name not in row]
        return f"no column {absent[0]!r}: expected every feature, null where it is missing" if absent else None

    def _encode_group(self, group: "_Group", columns: dict[str, np.ndarray], errors: dict[int, str]) -> None:
        try:
            errors |= self._encode_frame(group, columns)
        except UserError as error:  # a type that does not fit the schema
            problem = str(error).removeprefix(f"{FRAME}, ")
            errors |= {place: f"{FRAME}, line {place + 1}, {problem}" for place in group.places.tolist()}

    def _encode_frame(self, group: "_Group", columns: dict[str, np.ndarray]) -> dict[int, str]:
        """Encodes the rows of a frame into their places; returns the errors by place."""
        problems = _ProblemsByLine()
        for raw in split_frame(self._schema, group.frame):
            places = group.places[raw.lines - 1]
            numbered = dataclasses.replace(raw, lines=places + 1)
            finished, lines = self._finish(numbered, problems)
            for name in _INPUTS:
                columns[name][lines - 1] = finished[name]
        return {line - 1: f"{problem}; {_FIX}" for line, problem in problems.by_line.items()}

    def _finish(self, raw: RawRows, bad_rows: BadRows) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """Encodes rows; returns the columns of those that were kept, and their lines."""
        domain_codes = ValueCodes() if self._schema.domain is not None else None
        encoder = RowEncoder(self._schema, self._ids, domain_codes, _Here())
        encoded = encoder.encode(raw, bad_rows)
        columns, kept = finish_rows(encoded, self._schema, {}, domain_codes, bad_rows)
        return columns, encoded.arrays["line"][kept]


@dataclasses.dataclass(frozen=True)
class _Group:
    places: np.ndarray  # positions of the rows
    frame: pl.DataFrame


class _ProblemsByLine(BadRows):
    """Keeps the first problem of every bad row."""

    def __init__(self) -> None:
        super().__init__("skip")
        self.by_line: dict[int, str] = {}

    def refuse(self, file: Path, line: int, problem: str) -> None:
        self.by_line.setdefault(line, f"{file}, line {line}, {problem}")


class _Here(Executor):
    """Runs tasks at once on the calling thread: a few rows are not worth a switch to another one."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function(*arguments, **named))
        return done
