"""What a row is: dense, categorical and sequence columns, labels, domain, timestamp and group.

A *schema* (JSON) names the columns of raw files and how each becomes numbers. Preparing data
*resolves* it: row counts of vocabularies, means and deviations, domain values are filled in and
the result is written beside the row blocks. Everything after preparation reads the resolved schema.

Ids are local to their vocabulary: 0 is the unknown row (rare, never seen, or out of range); known values
follow from 1. An empty single value is a value of its own (the empty string); an empty bag is all -1.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast
from wukong_jax.strict_mapping import build_dataclass, to_mapping

NumericTransform = Literal["none", "log1p", "criteo_log", "standardise", "bucketise"]


@dataclasses.dataclass(frozen=True)
class Source:
    """How the raw files are laid out."""

    format: Literal["csv", "parquet", "libfm"]
    separator: str = ","  # csv only
    header: bool = True  # csv only: the first line of each file names the columns
    columns: tuple[str, ...] = ()  # names in file order, required without a header and for libfm
    missing: tuple[str, ...] = ("",)  # csv only: texts that mean "no value"
    strip: bool = False  # csv only: trim blanks around every value
    libfm_first_ids: tuple[int, ...] = ()  # libfm only: first global index of each column of `columns`[1:]


@dataclasses.dataclass(frozen=True)
class Split:
    """Which rows are train, validation and test.

    by "file": `train`, `validation`, `test` are glob patterns inside the input folder (or file names);
    by "random": each row falls by a hash of (seed, its position) into the given fractions;
    by "time": rows are cut at quantiles of the timestamp column, the latest to test;
    by "order": rows are cut at fractions of the whole input, the last to test.
    """

    by: Literal["file", "random", "time", "order"] = "random"
    train: str = ""
    validation: str = ""
    test: str = ""
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0
    validation_share_of_test: float = 0.0  # by "file": share of the test files' rows that a hash makes validation

    def __post_init__(self) -> None:
        """Refuses fractions that leave no training rows and file splits without train files."""
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
    """One number a row, float32 after its transform."""

    name: str
    transform: NumericTransform = "none"
    missing_value: float = 0.0  # what an empty value becomes, before the transform
    boundaries: tuple[float, ...] = ()  # bucketise: ascending, b boundaries make b + 1 buckets
    mean: float | None = None  # standardise: resolved from the training rows
    standard_deviation: float | None = None

    def __post_init__(self) -> None:
        """Checks the boundaries."""
        _check_boundaries(self.name, self.transform, self.boundaries)


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
    """One id a row, or a bag of up to `max_length` of them; a sequence keeps order, latest `max_length` last."""

    name: str
    encoding: Literal["vocabulary", "hash", "identity"] = "vocabulary"
    rows: int | None = None  # hash, identity: given; vocabulary: resolved, the unknown row included
    min_count: Annotated[int, AtLeast(1)] = 1  # vocabulary: values seen less often in the training rows are unknown
    salt: int = 0  # hash: changes which values collide
    transform: NumericTransform = "none"  # criteo_log or bucketise: discretise a number first
    boundaries: tuple[float, ...] = ()
    separator: str | None = None  # given: a bag, its values split here
    max_length: Annotated[int, AtLeast(1)] = 1  # slots of a bag
    vocabulary_of: str | None = None  # share the vocabulary (and the table) of this other column

    def __post_init__(self) -> None:
        """Checks combinations that no reader could honour."""
        _check_boundaries(self.name, self.transform, self.boundaries)
        if self.encoding in ("hash", "identity") and self.vocabulary_of is None and (self.rows or 0) < 2:
            raise UserError(
                f"rows = {self.rows} of column {self.name!r}: encoding {self.encoding!r} needs rows >= 2 "
                "(row 0 is the unknown row)"
            )
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
        """The name of the vocabulary, and of the table, that this column's ids index."""
        return self.vocabulary_of or self.name


@dataclasses.dataclass(frozen=True)
class LabelColumn:
    """One objective: 1 where the raw value is one of `positive` (or a number, see there), 0 elsewhere."""

    name: str  # the objective's name
    column: str = ""  # the raw column, by default `name`
    positive: tuple[str, ...] = ()  # texts that mean 1; empty: the value is a number, see `threshold`
    threshold: float | None = None  # 1 where number >= threshold; None: the number must be 0 or 1 (or -1: 0)

    @property
    def source_column(self) -> str:
        """The raw column that the label is read from; an empty value there masks the objective."""
        return self.column or self.name


@dataclasses.dataclass(frozen=True)
class Schema:
    """A row, and how raw files hold it; see the module's docstring."""

    name: str
    source: Source
    labels: tuple[LabelColumn, ...]
    split: Split = dataclasses.field(default_factory=Split)
    dense: tuple[DenseColumn, ...] = ()
    categorical: tuple[CategoricalColumn, ...] = ()
    sequences: tuple[CategoricalColumn, ...] = ()
    domain: str | None = None  # raw column of the domain
    domain_values: tuple[str, ...] = ()  # resolved, position = domain id; an unseen value is refused
    timestamp: str | None = None  # raw column: seconds since 1970, or a date or date-time text
    timestamp_parts: tuple[str, ...] = ()  # in its place: raw columns whose texts, blanks between them, are the date
    timestamp_format: str | None = None  # strftime form of that text, as "%y%m%d%H"; None: seconds or ISO 8601
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
                    "name a categorical column that has a vocabulary of its own"
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
        if self.split.by == "time" and not self.timestamp_columns:
            raise UserError("split.by = 'time': needs a timestamp column")

    @property
    def timestamp_columns(self) -> tuple[str, ...]:
        """The raw columns that a row's second is read from: none, one, or the parts of a date."""
        return self.timestamp_parts or ((self.timestamp,) if self.timestamp is not None else ())

    @property
    def id_columns(self) -> tuple[CategoricalColumn, ...]:
        """Every column that has ids, categorical first, then sequences: the order of the slots."""
        return (*self.categorical, *self.sequences)

    @property
    def slots(self) -> int:
        """S: id slots of a row."""
        return sum(column.max_length for column in self.id_columns)

    def slot_ranges(self) -> Iterator[tuple[CategoricalColumn, int, int]]:
        """Yields (column, first slot, one past its last slot) in slot order."""
        start = 0
        for column in self.id_columns:
            yield column, start, start + column.max_length
            start += column.max_length

    def vocabulary_rows(self) -> dict[str, int]:
        """Rows of each vocabulary, the unknown row included, of a resolved schema.

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
        """The trailing shape of each array of a block or batch; `()` for one value a row."""
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
      UserError: the file is missing, is not JSON, or holds an unknown key or a value out of range.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise UserError(f"schema {path}: {error.strerror}; give a built-in name or a JSON file") from None
    try:
        mapping = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"schema {path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from None
    return build_dataclass(Schema, mapping, str(path))


def schema_to_json(schema: Schema) -> str:
    """The schema as JSON text, in a fixed order."""
    return json.dumps(to_mapping(schema), indent=1) + "\n"


def _check_boundaries(name: str, transform: str, boundaries: tuple[float, ...]) -> None:
    if (transform == "bucketise") != bool(boundaries):
        raise UserError(
            f"boundaries = {list(boundaries)} of column {name!r}: given with transform bucketise, and only then"
        )
    if any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise UserError(f"boundaries = {list(boundaries)} of column {name!r}: must ascend")
