"""Defines the schema of rows: dense, categorical and sequence columns, labels, domain, timestamp and group.

A *schema* (JSON) lists the columns of raw files and how each is converted to numbers. Preparing data *resolves* it:
the rows of vocabularies, means, standard deviations and domain values are filled in, and the result is written beside
the row blocks. All later steps read the resolved schema.

Each vocabulary has separate ids: 0 is the unknown row, for values that are rare, new or out of range; known values
start at 1. An empty single value is a value like others (the empty string); an empty bag is all -1.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.errors import UserError
from wukong_jax.messages import first_line
from wukong_jax.ranges import AtLeast, Between, check_ranges
from wukong_jax.strict_mapping import build_dataclass, to_mapping

NumericTransform = Literal["none", "log1p", "criteo_log", "standardise", "bucketise"]
TimestampUnit = Literal["s", "ms", "us", "ns"]

MAX_ROWS = 2**31 - 1  # of a table: ids are signed 32-bit numbers
FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_MAX_SLOTS = 2**20  # of a row, over all columns

_Float32 = Between(-FLOAT32_MAX, FLOAT32_MAX)


@dataclasses.dataclass(frozen=True)
class Source:
    """Format of the raw files."""

    format: Literal["csv", "parquet", "libfm", "merged"]  # merged: of several data sets, whose files may differ
    separator: str = ","  # csv only
    header: bool = True  # csv only: the first line of each file names the columns
    columns: tuple[str, ...] = ()  # names in file order, required without a header and for libfm
    missing: tuple[str, ...] = ("",)  # csv only: texts that mean "no value"
    strip: bool = False  # csv only: trim blanks around every value
    libfm_first_ids: tuple[int, ...] = ()  # libfm only: first global index of each column of `columns`[1:]

    def require_raw_files(self) -> None:
        """Checks that raw rows can be encoded.

        Raises:
          UserError: the rows were merged from several data sets, each with raw files of its own.
        """
        if self.format == "merged":
            raise UserError(
                "source.format = 'merged': these rows come from several data sets, whose raw rows have other columns; "
                "score raw rows by predict with --data_set=NAME, or score arrays"
            )


@dataclasses.dataclass(frozen=True)
class Split:
    """How rows are split into train, validation and test.

    by "file": `train`, `validation`, `test` are glob patterns in the input folder, or file names;
    by "random": a hash of (seed, position) assigns each row, by the given fractions;
    by "time": rows are split at quantiles of the timestamp, with the latest for test;
    by "order": rows are split at fractions of the whole input, with the last for test.
    """

    by: Literal["file", "random", "time", "order"] = "random"
    train: str = ""
    validation: str = ""
    test: str = ""
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    validation_share_of_test: float = 0.0  # by "file": share of the test files' rows used for validation, by a hash

    def __post_init__(self) -> None:
        """Checks that fractions leave training rows and that a split by file has training files."""
        if self.by == "file" and not self.train:
            raise UserError("train = '': a split by file needs a pattern for the training files")
        if self.validation_share_of_test and (self.by != "file" or not self.test or self.validation):
            raise UserError(
                f"validation_share_of_test = {self.validation_share_of_test}: needs by = 'file', a test pattern and "
                "no validation pattern"
            )
        if not 0 <= self.validation_share_of_test < 1:
            raise UserError(f"validation_share_of_test = {self.validation_share_of_test}: from 0 to below 1")
        total = self.validation_fraction + self.test_fraction
        if min(self.validation_fraction, self.test_fraction) < 0 or total >= 1:
            raise UserError(
                f"validation_fraction = {self.validation_fraction}, test_fraction = {self.test_fraction}: "
                "each at least 0 and their sum below 1"
            )


@dataclasses.dataclass(frozen=True)
class DenseColumn:
    """One number per row, float32 after its transform."""

    name: str
    transform: NumericTransform = "none"
    missing_value: Annotated[float, _Float32] = 0.0  # replaces an empty value, before the transform
    boundaries: Annotated[tuple[float, ...], _Float32] = ()  # bucketise: ascending; b boundaries give b + 1 buckets
    mean: Annotated[float | None, _Float32] = None  # standardise: resolved from the training rows
    standard_deviation: Annotated[float | None, Between(0, FLOAT32_MAX)] = None

    def __post_init__(self) -> None:
        """Checks the ranges and the boundaries."""
        check_ranges(self)
        _check_boundaries(self.name, self.transform, self.boundaries)


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
    """One id per row, or a bag of up to `max_length` ids; a sequence keeps the order of its latest `max_length` ids."""

    name: str
    encoding: Literal["vocabulary", "hash", "identity"] = "vocabulary"
    rows: int | None = None  # hash, identity: must be given; vocabulary: resolved; includes the unknown row
    min_count: Annotated[int, AtLeast(1)] = 1  # vocabulary: values with fewer training occurrences are unknown
    salt: int = 0  # hash: changes which values collide
    transform: NumericTransform = "none"  # criteo_log or bucketise: discretises a number first
    boundaries: Annotated[tuple[float, ...], _Float32] = ()
    separator: str | None = None  # separator of a bag's values; None: a single value
    max_length: Annotated[int, Between(1, _MAX_SLOTS)] = 1  # slots of a bag
    vocabulary_of: str | None = None  # share the vocabulary (and the table) of this other column

    def __post_init__(self) -> None:
        """Rejects values out of range and invalid combinations of settings."""
        check_ranges(self)
        _check_boundaries(self.name, self.transform, self.boundaries)
        if self.encoding in ("hash", "identity") and self.vocabulary_of is None and (self.rows or 0) < 2:
            raise UserError(
                f"rows = {self.rows} of column {self.name!r}: encoding {self.encoding!r} needs rows >= 2 "
                "(row 0 is the unknown row)"
            )
        if self.rows is not None and self.rows > MAX_ROWS:
            raise UserError(f"rows = {self.rows} of column {self.name!r}: at most {MAX_ROWS} rows, as ids have 32 bits")
        if self.separator is None and self.max_length != 1:
            raise UserError(f"max_length = {self.max_length} of column {self.name!r}: a bag needs a separator")
        if self.transform in ("log1p", "standardise"):
            raise UserError(
                f"transform = {self.transform!r} of column {self.name!r}: a categorical column takes none, "
                "criteo_log or bucketise"
            )
        if self.vocabulary_of is not None and (self.encoding, self.rows, self.min_count, self.salt) != (
            "vocabulary",
            None,
            1,
            0,
        ):
            raise UserError(
                f"vocabulary_of = {self.vocabulary_of!r} of column {self.name!r}: encoding, rows, min_count and salt "
                "are those of that column; leave them out here"
            )
        if self.salt != 0 and self.encoding != "hash":
            raise UserError(f"salt = {self.salt} of column {self.name!r}: only encoding 'hash' has one")
        if self.min_count != 1 and self.encoding != "vocabulary":
            raise UserError(f"min_count = {self.min_count} of column {self.name!r}: only encoding 'vocabulary' has one")
        if self.transform != "none" and self.separator is not None:
            raise UserError(f"transform = {self.transform!r} of column {self.name!r}: not possible for a bag")

    @property
    def vocabulary(self) -> str:
        """Name of the vocabulary, and so of the table, of this column."""
        return self.vocabulary_of or self.name


@dataclasses.dataclass(frozen=True)
class LabelColumn:
    """One objective, with labels 0 and 1."""

    name: str  # name of the objective
    column: str = ""  # raw column; by default, `name`
    positive: tuple[str, ...] = ()  # texts that mean 1; if empty, the value is a number, see `threshold`
    threshold: Annotated[float | None, _Float32] = (
        None  # 1 if number >= threshold; None: the number must be 0, 1 or -1 (which means 0)
    )

    def __post_init__(self) -> None:
        """Checks the threshold."""
        check_ranges(self)

    @property
    def source_column(self) -> str:
        """Raw column of the label; an empty value masks the objective."""
        return self.column or self.name


@dataclasses.dataclass(frozen=True)
class Schema:
    """Columns of a row and the format of raw files; see the module's docstring."""

    name: str
    source: Source
    labels: tuple[LabelColumn, ...]
    split: Split = dataclasses.field(default_factory=Split)
    dense: tuple[DenseColumn, ...] = ()
    categorical: tuple[CategoricalColumn, ...] = ()
    sequences: tuple[CategoricalColumn, ...] = ()
    domain: str | None = None  # raw column of the domain
    domain_values: tuple[str, ...] = ()  # resolved; position = domain id; new values are an error
    timestamp: str | None = None  # raw column: numbers since 1970, or a date or date-time text
    timestamp_unit: TimestampUnit = "s"  # unit of timestamps that are numbers
    timestamp_parts: tuple[str, ...] = ()  # instead: raw columns whose texts, joined by blanks, are the date
    timestamp_format: str | None = None  # strftime format of the text, such as "%y%m%d%H"; None: numbers or ISO 8601
    group: str | None = None  # raw column whose values group rows for GAUC
    weight: str | None = None  # raw column of row weights

    def __post_init__(self) -> None:
        """Checks names and references across columns."""
        if not self.labels:
            raise UserError("labels = []: a schema needs at least one label")
        if not self.id_columns and not self.dense:
            raise UserError("categorical = []: a schema needs at least one feature column")
        seen: set[str] = set()
        for name in [*(c.name for c in self.dense), *(c.name for c in self.id_columns)]:
            if name in seen:
                raise UserError(f"column {name!r}: listed twice as a feature; features need distinct names")
            seen.add(name)
        columns = {c.name: c for c in self.id_columns}
        for column in self.id_columns:
            owner = columns.get(column.vocabulary)
            if owner is None or owner.vocabulary_of is not None:
                raise UserError(
                    f"vocabulary_of = {column.vocabulary_of!r} of column {column.name!r}: "
                    "name a categorical column that does not share a vocabulary"
                )
        for column in self.sequences:
            if column.separator is None:
                raise UserError(f"sequence {column.name!r}: needs a separator")
        if self.timestamp_parts and (self.timestamp is not None or self.timestamp_format is None):
            raise UserError(
                f"timestamp_parts = {list(self.timestamp_parts)}: stand in place of `timestamp` and need a "
                'timestamp_format, as "%Y %m %d"'
            )
        if self.timestamp_format is not None and not self.timestamp_columns:
            raise UserError(f"timestamp_format = {self.timestamp_format!r}: needs a timestamp column")
        if self.timestamp_unit != "s" and (self.timestamp is None or self.timestamp_format is not None):
            raise UserError(
                f"timestamp_unit = {self.timestamp_unit!r}: needs a timestamp column without a timestamp_format"
            )
        if self.slots > _MAX_SLOTS:
            raise UserError(f"max_length: {self.slots} slots of all columns together; the limit is {_MAX_SLOTS}")
        if self.split.by == "time" and not self.timestamp_columns:
            raise UserError("split.by = 'time': needs a timestamp column")

    @property
    def timestamp_columns(self) -> tuple[str, ...]:
        """Raw columns of the timestamp: none, one, or the parts of a date."""
        return self.timestamp_parts or ((self.timestamp,) if self.timestamp is not None else ())

    @property
    def id_columns(self) -> tuple[CategoricalColumn, ...]:
        """All columns with ids in the order of the slots: categorical columns, then sequences."""
        return (*self.categorical, *self.sequences)

    @property
    def slots(self) -> int:
        """S, number of id slots of a row."""
        return sum(column.max_length for column in self.id_columns)

    def slot_ranges(self) -> Iterator[tuple[CategoricalColumn, int, int]]:
        """Yields (column, first slot, one past its last slot) in slot order."""
        start = 0
        for column in self.id_columns:
            yield column, start, start + column.max_length
            start += column.max_length

    @property
    def column_slots(self) -> dict[str, range]:
        """Id slots of each id column, by the column's name."""
        return {column.name: range(start, stop) for column, start, stop in self.slot_ranges()}

    def vocabulary_rows(self) -> dict[str, int]:
        """Returns the rows of each vocabulary of a resolved schema, including the unknown row.

        Raises:
          UserError: the schema is not resolved.
        """
        rows = {}
        for column in self.id_columns:
            if column.vocabulary_of is None:
                if column.rows is None:
                    raise UserError(f"column {column.name!r} of schema {self.name!r} has no rows yet: prepare the data")
                rows[column.name] = column.rows
        return rows

    def column_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the trailing shape of each array of a block or batch; `()` for one value per row."""
        objectives = len(self.labels)
        return {
            "dense": (len(self.dense),),
            "ids": (self.slots,),
            "labels": (objectives,),
            "label_mask": (objectives,),
            "domain": (),
            "group": (),
            "timestamp": (),
            "weight": (),
        }


def load_schema(path: str | Path) -> Schema:
    """Reads a schema from a JSON file.

    Raises:
      UserError: the file is missing or not JSON, or has an unknown key or a value out of range.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"schema {path}: {error.strerror}; give a built-in name or a JSON file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"schema {path}, byte {error.start}: not UTF-8 text; save the file as UTF-8") from None
    try:
        mapping = json.loads(text, parse_constant=_refuse_number, parse_float=_parse_float)
        return build_dataclass(Schema, mapping, str(path))
    except json.JSONDecodeError as error:
        raise UserError(f"schema {path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"schema {path}: is nested too deeply; give a schema") from None
    except (ValueError, OverflowError) as error:  # such as an integer of 5,000 digits
        raise UserError(f"schema {path}: not readable ({first_line(error)}); correct the value") from None


def _parse_float(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse_number(text)


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


def schema_to_json(schema: Schema) -> str:
    """Returns the schema as JSON text, in a fixed order."""
    return json.dumps(to_mapping(schema), indent=1, allow_nan=False) + "\n"


def _check_boundaries(name: str, transform: str, boundaries: tuple[float, ...]) -> None:
    if (transform == "bucketise") != bool(boundaries):
        raise UserError(
            f"boundaries = {list(boundaries)} of column {name!r}: given with transform bucketise, and only then"
        )
    if any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise UserError(f"boundaries = {list(boundaries)} of column {name!r}: must ascend")
