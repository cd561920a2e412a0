"""Generates clicks from known true logits, so that the Bayes log loss and AUC (the best possible) are known.

    true logit = bias + deviation * sum over orders of sqrt(share) * (the order's part, of unit variance)
    label      = 1 with probability sigmoid(true logit)

The parts are uncorrelated (`structures`), so `order_shares` are shares of the logit's variance. The orders and shares
determine how hard the data is; the generator does not depend on any model. Rows are generated in blocks, each from its
own counter-based random stream, so any range of rows can be generated alone and is always the same.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Columns
from wukong_jax.data.blocks.preparation_report import RowStatistics
from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.data.blocks.row_blocks import SPLITS, BlockWriter
from wukong_jax.data.planted.bayes_metrics import BayesMetrics, compute_bayes_metrics, compute_expected_metrics
from wukong_jax.data.planted.clicks_config import PlantedClicksConfig
from wukong_jax.data.planted.orders import MOST_ROWS, compute_order_floors, enumerate_values
from wukong_jax.data.planted.structures import PlantedLogit, ZipfSampler
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split, schema_to_json
from wukong_jax.strict_mapping import to_mapping

_BLOCK_ROWS = 8192
# Random streams of one seed.
_STRUCTURE, _ROWS, _SAMPLE = 0, 1, 2
_BIAS_ROWS = 1 << 17


class PlantedClicks:
    """The generator of planted clicks."""

    def __init__(self, config: PlantedClicksConfig) -> None:
        """Draws the structure and computes the bias, which takes about a second.

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
        """Column names of each planted group; empty without groups."""
        return [[f"field_{field}" for field in group] for group in self.structure.groups]

    def schema(self) -> Schema:
        """Returns the resolved schema.

        Raw value v has id v + 1 (encoding "identity"), and value 0 is the most frequent. Id 0, for out-of-vocabulary
        values, never occurs.
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
        """Generates rows of an endless stream; a row does not depend on the requested range.

        Args:
          first_row: number of the first row, from 0.
          rows: number of rows.

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
        """Returns the first row of a split in the stream; splits follow each other, each at the start of a block."""
        before = SPLITS[: SPLITS.index(split)]
        return sum(-(-self.config.rows(name) // _BLOCK_ROWS) * _BLOCK_ROWS for name in before)

    def source(self, split: str) -> "PlantedSource":
        """Returns a split as a block source for the loader; its blocks are generated on reading, without files."""
        return PlantedSource(self, split)

    def expected_metrics(self, rows: int = 1 << 19) -> BayesMetrics:
        """Estimates the Bayes metrics of the planted distribution by Monte Carlo, on rows that are in no split.

        Args:
          rows: size of the sample; the standard errors decrease with its square root.
        """
        return compute_expected_metrics(self._sample_logits(rows) + self.bias)

    def order_floors(self) -> dict[str, float] | None:
        """Computes the lowest log loss that functions of each order can reach (see `orders`).

        Returns None if there are dense fields or more than `orders.MOST_ROWS` combinations of values.
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
        """Generates one block of a stream: ids, dense, the label's uniform draw, and the logit without bias."""
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
    """A split of planted clicks, generated on reading; the rows equal those that `write_planted_clicks` writes."""

    def __init__(self, clicks: PlantedClicks, split: str) -> None:
        """Called by `PlantedClicks.source`; use that method instead."""
        self._clicks = clicks
        self._first_row = clicks.first_row(split)
        self.rows = clicks.config.rows(split)
        self.num_blocks = -(-self.rows // _BLOCK_ROWS)

    def block_rows(self, index: int) -> int:
        """Returns the number of rows of block `index`."""
        return min(_BLOCK_ROWS, self.rows - index * _BLOCK_ROWS)

    def read(self, index: int) -> Columns:
        """Generates block `index`."""
        return self._clicks.generate(self._first_row + index * _BLOCK_ROWS, self.block_rows(index))[0]


def write_planted_clicks(config: PlantedClicksConfig, directory: str | Path) -> dict[str, Any]:
    """Writes a prepared data directory: `schema.json`, `blocks/`, `report.json` and an empty `vocabulary/`.

    The directory is written under another name and renamed when complete, so it is never incomplete. The labels and
    logits of the validation and test splits are held in memory for their Bayes metrics (8 bytes per row).

    Args:
      config: configuration of the generator.
      directory: the directory to create; it must not exist.

    Returns:
      The report: the entries for prepared raw files, and "config", "bias", "groups" (of columns), "bayes" and
      "order_floors" (null if there are too many fields or values). "bayes" has the metrics of "expected" (of the
      distribution), "validation" and "test" (of their rows; left out if a class is missing).

    Raises:
      UserError: the directory exists or cannot be written.
    """
    directory = Path(directory)
    with write_whole_folder(directory) as aside:
        clicks = PlantedClicks(config)
        schema = clicks.schema()
        (aside / "vocabulary").mkdir()
        (aside / "schema.json").write_text(schema_to_json(schema), encoding="utf-8")
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
        (aside / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _write_split(clicks: PlantedClicks, split: str, directory: Path, statistics: RowStatistics) -> BayesMetrics | None:
    """Writes one split; returns the Bayes metrics of its rows, or None for training rows or if a class is missing."""
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
    """Finds the bias for which the mean probability equals the base rate, by bisection."""
    low, high = -100.0, 100.0
    logits = logits.astype(np.float64)
    while high - low > 1e-9:
        middle = (low + high) / 2
        if np.mean(expit(logits + middle)) < base_rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2
