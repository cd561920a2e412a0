"""Clicks with a planted answer: a generator whose Bayes log loss and AUC are known.

    true logit = bias + deviation * sum over orders of sqrt(share) * (the order's part, of unit variance)
    label      = 1 with probability sigmoid(true logit)

The parts are uncorrelated (`planted_structures`), so `order_shares` are shares of the logit's variance. How
hard the data is follows from orders and shares; nothing here looks at a model. Rows are made in blocks, each from its
own counter-based random stream, so any range of rows can be made alone and is always the same.
"""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from scipy.special import expit

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Columns
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.planted.bayes_metrics import BayesMetrics, compute_bayes_metrics, compute_expected_metrics
from wukong_jax.data.planted.orders import MOST_ROWS, compute_order_floors, enumerate_values
from wukong_jax.data.planted.structures import PlantedLogit, Structure, ZipfSampler
from wukong_jax.errors import UserError
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.ranges import Above, AtLeast, Between, Inside, check_ranges
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, schema_to_json
from wukong_jax.strict_mapping import to_mapping

_BLOCK_ROWS = 8192
# Random streams of one seed.
_STRUCTURE, _ROWS, _SAMPLE = 0, 1, 2
_BIAS_ROWS = 1 << 17


@dataclasses.dataclass(frozen=True)
class PlantedClicksConfig:
    """A planted data set; everything follows from these numbers."""

    seed: Annotated[int, AtLeast(0)] = 0
    fields: Annotated[int, AtLeast(0)] = 16  # categorical fields
    values_per_field: Annotated[int, Between(2, 2**31 - 2)] = 50  # known values of each
    zipf_exponent: Annotated[float, AtLeast(0)] = 1.1  # of the values' frequencies; 0 = uniform
    dense_fields: Annotated[int, AtLeast(0)] = 0  # standard normal numbers; they join orders 1 and 2 (1 with groups)
    structure: Structure = "factorized"
    orders: tuple[int, ...] = (1, 2)  # ascending
    order_shares: Annotated[tuple[float, ...], Above(0)] = (0.3, 0.7)  # of the logit's variance, one per order, sum 1
    # terms of each order from 2 up (subsets of fields); all where there are fewer
    interactions: Annotated[int, AtLeast(1)] = 24
    latent_width: Annotated[int, AtLeast(1)] = 4  # coordinates of a field value
    groups: int = 0  # random parts of the categorical fields; terms of order 2 up then join fields of one part
    # share of these terms that keep to one group; the others join several
    group_share: Annotated[float, Between(0, 1)] = 1.0
    logit_deviation: Annotated[float, Above(0)] = 1.5  # standard deviation of the true logit
    base_rate: Annotated[float, Inside(0, 1)] = 0.25  # mean of the labels
    train_rows: Annotated[int, AtLeast(0)] = 1_000_000
    validation_rows: Annotated[int, AtLeast(0)] = 100_000
    test_rows: Annotated[int, AtLeast(0)] = 200_000

    def __post_init__(self) -> None:
        """Refuses values out of range, by name."""
        check_ranges(self)
        _require(
            self.structure in ("factorized", "field_aware"), "structure", self.structure, "factorized or field_aware"
        )
        ascending = all(a < b for a, b in itertools.pairwise(self.orders))
        _require(bool(self.orders) and self.orders[0] >= 1 and ascending, "orders", self.orders, "ascending, from 1")
        fitting = len(self.order_shares) == len(self.orders)
        _require(fitting, "order_shares", self.order_shares, f"one for each of the orders {self.orders}")
        _require(abs(sum(self.order_shares) - 1) < 1e-6, "order_shares", self.order_shares, "of sum 1")
        self._check_groups()

    def _check_groups(self) -> None:
        fitting = self.groups == 0 or 2 <= self.groups <= self.fields // 2
        _require(fitting, "groups", self.groups, f"0, or 2 to half of fields = {self.fields}")
        _require(self.groups == 0 or self.orders[-1] > 1, "groups", self.groups, "0 where order 1 is the only one")
        if self.groups == 0:
            _require(self.group_share == 1, "group_share", self.group_share, "1 without groups; set groups")
        inside = round(self.group_share * self.interactions)
        _require(inside >= 1, "group_share", self.group_share, "the share of at least a term")

    def rows(self, split: str) -> int:
        """Rows of a split."""
        return {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]


class PlantedClicks:
    """The generator; making one draws the structure and finds the bias (about a second)."""

    def __init__(self, config: PlantedClicksConfig) -> None:
        """Draws the structure.

        Raises:
          UserError: an order needs more fields than there are, or the structure does not fit in memory.
        """
        self.config = config
        self._sampler = ZipfSampler(config.values_per_field, config.zipf_exponent)
        self.structure = PlantedLogit(
            open_stream(config.seed, _STRUCTURE),
            self._sampler.probabilities,
            fields=config.fields,
            dense_fields=config.dense_fields,
            structure=config.structure,
            orders=config.orders,
            interactions=config.interactions,
            latent_width=config.latent_width,
            groups=config.groups,
            group_share=config.group_share,
        )
        self._factors = np.sqrt(np.array(config.order_shares)) * config.logit_deviation
        self.bias = _find_bias(self._sample_logits(_BIAS_ROWS), config.base_rate)

    @property
    def groups(self) -> list[list[str]]:
        """The column names of each planted group; empty without groups."""
        return [[f"field_{field}" for field in group] for group in self.structure.groups]

    def schema(self) -> Schema:
        """The resolved schema.

        A raw value v, 0 the most frequent, is id v + 1 (encoding "identity"); id 0, the unknown value, never occurs.
        """
        rows = self.config.values_per_field + 1
        return Schema(
            name="planted_clicks",
            source=Source(format="csv"),
            labels=(LabelColumn("click"),),
            split=Split(by="order"),
            dense=tuple(DenseColumn(f"dense_{i}") for i in range(self.config.dense_fields)),
            categorical=tuple(
                CategoricalColumn(f"field_{i}", encoding="identity", rows=rows) for i in range(self.config.fields)
            ),
        )

    def generate(self, first_row: int, rows: int) -> tuple[Columns, np.ndarray]:
        """Makes rows of the endless stream; the same rows whatever range they are asked in.

        Args:
          first_row: from 0.
          rows: how many.

        Returns:
          (columns as in a block, true logit [rows] float32).
        """
        parts = []
        for block in range(first_row // _BLOCK_ROWS, -(-(first_row + rows) // _BLOCK_ROWS)):
            ids, dense, uniform, logit = self._make_block(_ROWS, block)
            logit += np.float32(self.bias)
            labels = uniform < expit(logit.astype(np.float64))
            start = max(first_row - block * _BLOCK_ROWS, 0)
            stop = min(first_row + rows - block * _BLOCK_ROWS, _BLOCK_ROWS)
            parts.append([array[start:stop] for array in (ids, dense, labels, logit)])
        if not parts:
            config = self.config
            parts = [[np.zeros((0, config.fields)), np.zeros((0, config.dense_fields)), np.zeros(0), np.zeros(0)]]
        ids, dense, labels, logit = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return self._columns(ids, dense, labels), logit.astype(np.float32, copy=False)

    def first_row(self, split: str) -> int:
        """The row of the stream at which a split begins: the splits follow each other, each at a block's start."""
        before = SPLITS[: SPLITS.index(split)]
        return sum(-(-self.config.rows(name) // _BLOCK_ROWS) * _BLOCK_ROWS for name in before)

    def source(self, split: str) -> "PlantedSource":
        """A split as a source of the loader, made as it is read: nothing on disk."""
        return PlantedSource(self, split)

    def expected_metrics(self, rows: int = 1 << 19) -> BayesMetrics:
        """The Bayes metrics of the planted distribution, by Monte Carlo over rows of a stream of their own.

        Args:
          rows: of the sample; the standard errors fall with its root.
        """
        return compute_expected_metrics(self._sample_logits(rows) + self.bias)

    def order_floors(self) -> dict[str, float] | None:
        """The log loss within reach of functions of each order (`planted_orders`); None where there are too many rows.

        Needs all fields categorical and at most `planted_orders.MOST_ROWS` combinations of their values.
        """
        config, sampler = self.config, self._sampler
        if config.dense_fields or config.fields * math.log(config.values_per_field) > math.log(MOST_ROWS):
            return None
        ids = enumerate_values(config.fields, config.values_per_field)
        parts = self.structure.parts(ids, np.zeros((len(ids), 0), np.float32)).astype(np.float64)
        probability = expit(self._factors @ parts + self.bias)
        chance = sampler.probabilities[ids - 1].prod(axis=1)
        return compute_order_floors(ids, chance, probability, config.values_per_field, config.orders)

    def _make_block(self, stream: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One block of a stream: ids, dense, the label's uniform draw, the logit without bias."""
        config = self.config
        generator = open_stream(config.seed, stream, block)
        ids = self._sampler.draw(generator, (_BLOCK_ROWS, config.fields))
        dense = generator.standard_normal((_BLOCK_ROWS, config.dense_fields), np.float32)
        uniform = generator.random(_BLOCK_ROWS)
        parts = self.structure.parts(ids, dense)
        logit = np.zeros(_BLOCK_ROWS, np.float32)
        for factor, part in zip(self._factors, parts, strict=True):
            logit += np.float32(factor) * part
        return ids, dense, uniform, logit

    def _sample_logits(self, rows: int) -> np.ndarray:
        blocks = -(-rows // _BLOCK_ROWS)
        return np.concatenate([self._make_block(_SAMPLE, block)[3] for block in range(blocks)])[:rows]

    def _columns(self, ids: np.ndarray, dense: np.ndarray, labels: np.ndarray) -> Columns:
        rows = len(labels)
        arrays = {
            "dense": dense,
            "ids": ids,
            "labels": labels[:, None],
            "label_mask": np.ones((rows, 1)),
            "domain": np.zeros(rows),
            "group": np.zeros(rows),
            "timestamp": np.zeros(rows),
            "weight": np.ones(rows),
        }
        return {name: array.astype(COLUMN_DTYPES[name], copy=False) for name, array in arrays.items()}


class PlantedSource:
    """A split of planted clicks as blocks made when read; equal to what `write_planted_clicks` writes."""

    def __init__(self, clicks: PlantedClicks, split: str) -> None:
        """Use `PlantedClicks.source`."""
        self._clicks = clicks
        self._first_row = clicks.first_row(split)
        self.rows = clicks.config.rows(split)
        self.num_blocks = -(-self.rows // _BLOCK_ROWS)

    def block_rows(self, index: int) -> int:
        """Rows of block `index`."""
        return min(_BLOCK_ROWS, self.rows - index * _BLOCK_ROWS)

    def read(self, index: int) -> Columns:
        """Makes block `index`."""
        return self._clicks.generate(self._first_row + index * _BLOCK_ROWS, self.block_rows(index))[0]


def write_planted_clicks(config: PlantedClicksConfig, directory: str | Path) -> dict[str, Any]:
    """Writes a prepared data directory: `schema.json`, `blocks/`, `vocabulary/` (empty: ids are ranks), `report.json`.

    It is written aside and renamed, so a directory of that name is a whole one. The labels and logits of the
    validation and test splits are held in memory for their Bayes metrics (8 bytes a row).

    Args:
      config: what to plant.
      directory: must not exist.

    Returns:
      The report: as of prepared raw files, and the config, the bias, the "groups" of columns, and under "bayes" the
      metrics of "expected" (of the distribution), "validation" and "test" (of their rows; left out where a class has
      none), and "order_floors" (null where there are too many fields or values).

    Raises:
      UserError: the directory exists or cannot be written.
    """
    directory = Path(directory)
    with write_whole_folder(directory) as aside:
        clicks = PlantedClicks(config)
        schema = clicks.schema()
        (aside / "vocabulary").mkdir()
        (aside / "schema.json").write_text(schema_to_json(schema))
        bayes = {"expected": to_mapping(clicks.expected_metrics())}
        statistics = RowStatistics(schema)
        for split in SPLITS:
            metrics = _write_split(clicks, split, aside, statistics)
            if metrics is not None:
                bayes[split] = to_mapping(metrics)
        planted = {
            **{"config": to_mapping(config), "bias": clicks.bias, "groups": clicks.groups, "bayes": bayes},
            "order_floors": clicks.order_floors(),
        }
        report = statistics.report(schema, {}) | planted
        (aside / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def _write_split(clicks: PlantedClicks, split: str, directory: Path, statistics: RowStatistics) -> BayesMetrics | None:
    """Writes one split; the Bayes metrics on its rows, or None for training rows or where one class is missing."""
    first, rows = clicks.first_row(split), clicks.config.rows(split)
    logits: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    with BlockWriter(directory, split, clicks.schema()) as writer:
        for start in range(0, rows, _BLOCK_ROWS):
            columns, logit = clicks.generate(first + start, min(_BLOCK_ROWS, rows - start))
            writer.append(columns)
            statistics.add(SPLITS.index(split), columns)
            if split != "train":
                logits.append(logit)
                labels.append(columns["labels"][:, 0])
    if not labels or len(np.unique(np.concatenate(labels))) < 2:
        return None
    return compute_bayes_metrics(np.concatenate(logits), np.concatenate(labels))


def _find_bias(logits: np.ndarray, base_rate: float) -> float:
    """The bias under which the mean probability is the base rate, by bisection."""
    low, high = -100.0, 100.0
    logits = logits.astype(np.float64)
    while high - low > 1e-9:
        middle = (low + high) / 2
        if np.mean(expit(logits + middle)) < base_rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _require(holds: bool, key: str, value: Any, limit: str) -> None:
    if not holds:
        raise UserError(f"{key} = {value!r}: must be {limit}")
