"""Encodes rows of raw files as columnar arrays, both to prepare data and to score new rows."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Columns
from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.canonical_values import canonical_text, canonicalise_texts
from wukong_jax.data.raw.column_encoders import (
    Coder,
    encode_bag,
    encode_dense,
    encode_domain,
    encode_group,
    encode_label,
    encode_single,
    encode_weight,
    join_columns,
)
from wukong_jax.data.raw.column_types import check_column_types
from wukong_jax.data.raw.numeric_transforms import standardise, to_float32
from wukong_jax.data.raw.problems import Problem
from wukong_jax.data.raw.raw_files import RawRows
from wukong_jax.data.raw.timestamps import encode_timestamp
from wukong_jax.data.raw.vocabulary import ValueCodes
from wukong_jax.errors import UserError
from wukong_jax.messages import join_some
from wukong_jax.schema import Schema

_DOMAINS_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class EncodedRows:
    """Rows whose ids and domains are provisional codes and whose columns are not standardised; see `finish_rows`."""

    file: Path
    arrays: dict[str, np.ndarray]  # as in a block, but ids are [S, rows], dense may be float64; plus line [rows] int64
    truncated: dict[str, int]  # column -> number of values dropped for lack of a slot

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.arrays["line"])

    def select(self, rows: np.ndarray) -> "EncodedRows":
        """Returns the rows where the mask `rows`, [rows] bool, is true."""
        arrays = {name: array[:, rows] if name == "ids" else array[rows] for name, array in self.arrays.items()}
        return EncodedRows(self.file, arrays, self.truncated)


class RowEncoder:
    """Encodes raw rows by a schema, with columns in parallel on several threads."""

    def __init__(
        self, schema: Schema, coders: Mapping[str, Coder], domain_coder: ValueCodes | None, threads: Executor
    ) -> None:
        """Creates an encoder.

        Args:
          schema: schema of the raw files.
          coders: the coder of each vocabulary, by vocabulary name.
          domain_coder: coder of the domain column; None if there is no domain.
          threads: executor that encodes the columns.
        """
        self._schema = schema
        self._coders = coders
        self._domain_coder = domain_coder
        self._threads = threads
        self.seen_positives: dict[str, set[str]] = {label.name: set() for label in schema.labels}
        self._owners = {column.name: column for column in schema.id_columns}
        raw = any(column.transform == "standardise" for column in schema.dense)
        self._dense_dtype = np.float64 if raw else np.float32

    def encode(self, raw: RawRows, bad_rows: BadRows) -> EncodedRows:
        """Encodes rows, leaving out rows with values that cannot be read.

        Args:
          raw: rows of one file; in an absent column, all values count as missing.
          bad_rows: receives the rows that cannot be read.

        Returns:
          The other rows.

        Raises:
          UserError: a row is bad and the policy is "stop", or a column's type does not fit the schema.
        """
        check_column_types(raw.file, raw.frame.schema, self._schema)
        arrays = self._empty_arrays(raw)
        truncated: dict[str, int] = {}
        problems: list[Problem] = []
        tasks = self._tasks(raw, arrays, truncated, problems)
        for done in [self._threads.submit(task) for task in tasks]:
            done.result()
        encoded = EncodedRows(raw.file, arrays, truncated)
        return encoded.select(self._refuse(raw, problems, bad_rows)) if problems else encoded

    def _empty_arrays(self, raw: RawRows) -> dict[str, np.ndarray]:
        rows, schema = len(raw.lines), self._schema
        arrays = {
            name: np.zeros((rows, *shape), COLUMN_DTYPES[name])
            for name, shape in schema.column_shapes().items()
            if name not in ("ids", "dense")
        }
        arrays["ids"] = np.empty((schema.slots, rows), np.int32)
        arrays["dense"] = np.empty((rows, len(schema.dense)), self._dense_dtype)
        arrays["weight"][:] = 1.0
        arrays["line"] = raw.lines
        return arrays

    def _tasks(
        self, raw: RawRows, arrays: dict[str, np.ndarray], truncated: dict[str, int], problems: list[Problem]
    ) -> list[Callable[[], None]]:
        frame, schema = raw.frame, self._schema

        def encode_slots(position: int, start: int, stop: int) -> None:
            column = schema.id_columns[position]
            owner = self._owners[column.vocabulary]
            coder, values = self._coders.get(owner.name), frame[column.name]
            if column.separator is None:
                arrays["ids"][start] = encode_single(column, owner, values, coder, problems)
                return
            latest = position >= len(schema.categorical)
            slots, lost = encode_bag(column, owner, values, coder, latest, problems)
            arrays["ids"][start:stop] = slots
            truncated[column.name] = lost

        def encode_rest() -> None:
            for index, column in enumerate(schema.dense):
                arrays["dense"][:, index] = encode_dense(column, frame[column.name], problems)
            for index, label in enumerate(schema.labels):
                if label.source_column in frame.columns:
                    seen = self.seen_positives[label.name]
                    values, mask = encode_label(label, frame[label.source_column], problems, seen)
                    arrays["labels"][:, index], arrays["label_mask"][:, index] = values, mask
            if schema.domain is not None and self._domain_coder is not None:
                arrays["domain"][:] = encode_domain(schema.domain, frame[schema.domain], self._domain_coder, problems)
            if schema.group is not None and schema.group in frame.columns:
                arrays["group"][:] = encode_group(schema.group, frame[schema.group], problems)
            dates = schema.timestamp_columns
            if dates and set(dates) <= set(frame.columns):
                moments = frame[dates[0]] if len(dates) == 1 else join_columns(frame, dates)
                form, unit = schema.timestamp_format, schema.timestamp_unit
                arrays["timestamp"][:] = encode_timestamp(dates[0], form, moments, problems, unit)
            if schema.weight is not None and schema.weight in frame.columns:
                arrays["weight"][:] = encode_weight(schema.weight, frame[schema.weight], problems)

        slots = [
            lambda position=position, start=start, stop=stop: encode_slots(position, start, stop)
            for position, (_, start, stop) in enumerate(schema.slot_ranges())
        ]
        return [encode_rest, *slots]

    def _refuse(self, raw: RawRows, problems: list[Problem], bad_rows: BadRows) -> np.ndarray:
        order = {name: position for position, name in enumerate(raw.frame.columns)}
        problems = sorted(problems, key=lambda problem: order[problem.column])
        bad = np.any([problem.rows for problem in problems], axis=0)
        for row in np.flatnonzero(bad):
            first = next(problem for problem in problems if problem.rows[row])
            bad_rows.refuse(raw.file, int(raw.lines[row]), first.describe(int(row)))
        return ~bad


def count_threads() -> int:
    """Returns the number of threads that encode columns in parallel."""
    return min(8, os.cpu_count() or 1)


def raw_columns(schema: Schema) -> tuple[list[str], list[str]]:
    """Returns the raw columns of features and domain, and those of labels, timestamp, group and weight.

    The second list may be absent from rows that are only scored.
    """
    features = [column.name for column in schema.dense] + [column.name for column in schema.id_columns]
    features += [schema.domain] if schema.domain is not None else []
    targets = [label.source_column for label in schema.labels]
    targets += [name for name in (*schema.timestamp_columns, schema.group, schema.weight) if name is not None]
    needed = list(dict.fromkeys(features))
    return needed, [name for name in dict.fromkeys(targets) if name not in needed]


def number_columns(schema: Schema) -> set[str]:
    """Returns the raw columns that are used as numbers only, which a reader may parse as numbers."""
    labels = [label.source_column for label in schema.labels if not label.positive]
    numbers = {column.name for column in schema.dense} | set(labels)
    numbers |= {schema.weight} if schema.weight is not None else set()
    texts = {column.name for column in schema.id_columns} | {schema.domain, schema.group, *schema.timestamp_columns}
    texts |= {label.source_column for label in schema.labels if label.positive}
    return numbers - texts


def bag_columns(schema: Schema) -> set[str]:
    """Returns the raw columns that are used as bags only, which may hold lists."""
    needed, optional = raw_columns(schema)
    bags = {column.name for column in schema.id_columns if column.separator is not None}
    singles = {column.name for column in schema.dense} | {schema.domain, *optional}
    singles |= {column.name for column in schema.id_columns if column.separator is None}
    return (bags & set(needed)) - singles


def finish_rows(
    encoded: EncodedRows,
    resolved: Schema,
    id_tables: Mapping[str, np.ndarray],
    domain_codes: ValueCodes | None,
    bad_rows: BadRows,
) -> tuple[Columns, np.ndarray]:
    """Converts codes to ids and standardises columns, leaving out rows that this shows to be bad.

    Args:
      encoded: encoded rows.
      resolved: schema with means, standard deviations and domain values.
      id_tables: for each vocabulary, the id of each code, followed by -1 for code -1; the codes of a vocabulary without
        an entry are ids already.
      domain_codes: the coder that encoded the domain column.
      bad_rows: receives the rows of an unseen domain, and those with a number that is beyond float32 when standardised.

    Returns:
      The columns as in a block, except that the ids of each slot lie side by side in memory; and a mask of the rows
      that were kept, [rows] bool.

    Raises:
      UserError: a row is bad and the policy is "stop".
    """
    arrays = encoded.arrays
    ids = arrays["ids"]
    if id_tables:
        ids = np.empty_like(arrays["ids"])
        for column, start, stop in resolved.slot_ranges():
            for slot in range(start, stop):
                codes = arrays["ids"][slot]
                ids[slot] = id_tables[column.vocabulary].take(codes) if column.vocabulary in id_tables else codes
    columns = {name: arrays[name] for name in resolved.column_shapes() if name not in ("ids", "dense")}
    bad: dict[int, str] = {}  # row -> problem
    columns |= {"ids": ids.T, "dense": _standardise_columns(arrays["dense"], resolved, bad)}
    if domain_codes is not None:
        columns["domain"] = _find_domains(arrays["domain"], resolved, domain_codes, bad)
    keep = np.ones(encoded.rows, bool)
    for row in sorted(bad):
        keep[row] = False
        bad_rows.refuse(encoded.file, int(arrays["line"][row]), bad[row])
    return columns if keep.all() else {name: array[keep] for name, array in columns.items()}, keep


def index_domains(resolved: Schema) -> dict[str, int]:
    """Returns the domain of each value of `domain_values` in its canonical form.

    Raises:
      UserError: two values have one canonical form.
    """
    known: dict[str, int] = {}
    for domain, value in enumerate(resolved.domain_values):
        form = canonical_text(value)
        if form in known:
            raise UserError(
                f"domain_values = {resolved.domain_values[known[form]]!r} and {value!r}: the same value twice, as "
                f"{form!r}; leave one out (of prepared data: prepare them again)"
            )
        known[form] = domain
    return known


def _find_domains(codes: np.ndarray, resolved: Schema, domain_codes: ValueCodes, bad: dict[int, str]) -> np.ndarray:
    texts, known = canonicalise_texts(domain_codes.texts()).to_list(), index_domains(resolved)
    domains = np.array([known.get(text, -1) for text in texts], np.int32)[codes]
    shown = join_some(resolved.domain_values, _DOMAINS_SHOWN)
    for row in np.flatnonzero(domains < 0):
        value = texts[codes[row]]
        bad[int(row)] = f"column {resolved.domain!r} = {value!r}: expected a domain of training rows ({shown})"
    return domains


def _standardise_columns(dense: np.ndarray, resolved: Schema, bad: dict[int, str]) -> np.ndarray:
    finished = dense.astype(np.float32)
    for index, column in enumerate(resolved.dense):
        if column.transform == "standardise":
            mean, deviation = np.array([column.mean]), np.array([column.standard_deviation])
            standardised = standardise(dense[:, [index]], mean, deviation)[:, 0]
            finished[:, index], beyond = to_float32(standardised)
            for row in np.flatnonzero(beyond):
                bad[int(row)] = (
                    f"column {column.name!r} = {dense[row, index]:.15g}: beyond float32 when standardised by mean "
                    f"{column.mean:.6g} and deviation {column.standard_deviation:.6g}"
                )
    return finished
