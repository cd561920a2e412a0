"""Generates data with several domains and objectives whose Bayes log loss and AUC (the best possible) are known.

A *portfolio* is a (domain, objective) pair.

    true logit(g, o) = bias(g, o) + deviation * (parts shared between portfolios and parts of one portfolio, see
                       `relatedness`; match of the item with the history, see `sequences`); the weights may drift
    label            = 1 with probability sigmoid(true logit), independently for each objective given the row
    conversion       = impression + delay (see `delays`), for the positives of delayed objectives

A row is one impression: a domain, a user and an item (`ids`), fields, dense numbers, a history of items, and useless
columns. Its values have the same distribution in every domain. Rows are generated in blocks, each from its own
counter-based random stream, so any range of rows can be generated alone and is always the same. Time increases evenly
with the row number, through train, validation and test. Base rates are averages over the whole time.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from wukong_jax.data.blocks.batch import COLUMN_DTYPES, Columns
from wukong_jax.data.blocks.random_streams import open_stream
from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.data.planted.delays import PlantedDelays
from wukong_jax.data.planted.ids import PlantedIds
from wukong_jax.data.planted.portfolios_config import PlantedPortfoliosConfig
from wukong_jax.data.planted.relatedness import PortfolioLogits, check_memory
from wukong_jax.data.planted.structures import ZipfSampler
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source, Split

BLOCK_ROWS = 8192
FIRST_SECOND = 1_735_689_600  # timestamp of row 0, 2025-01-01
# Random streams of one seed.
_LOGITS, _USERS, _ITEMS, _DELAYS, _ROWS, _SAMPLE = range(6)
_BIAS_ROWS = 1 << 16


class PlantedRows(NamedTuple):
    """Rows with their true logits and conversion times."""

    columns: Columns  # as in a block
    logit: np.ndarray  # [B, O] float32, true logits, also of objectives that are not observed
    converted: np.ndarray  # [B, O] int64, second of the conversion; -1: no conversion, or objective without delay


@dataclasses.dataclass(frozen=True)
class _Draws:
    """The random values of one block."""

    domain: np.ndarray  # [B] int32
    values: np.ndarray  # [B, entity fields] int32: segment, category, fields
    dense: np.ndarray  # [B, dense fields] float32
    history: np.ndarray  # [B, L] int32 categories
    ids: np.ndarray  # [B, S] int32
    useless_dense: np.ndarray  # [B, useless dense fields] float32
    label_uniform: np.ndarray  # [B, O]
    delay_uniform: np.ndarray  # [B, delayed objectives]


class PlantedPortfolios:
    """The generator of planted portfolios."""

    def __init__(self, config: PlantedPortfoliosConfig) -> None:
        """Draws the structure and computes the biases, which takes about a second.

        Raises:
          UserError: an order needs more fields than there are, there are too few values for the number of portfolios,
            or the structure does not fit in memory.
        """
        check_memory(config)
        self.config = config
        self.sampler = ZipfSampler(config.values_per_field, config.zipf_exponent)
        self.users = self._draw_ids(_USERS, config.users_per_segment, config.user_overlap)
        self.items = self._draw_ids(_ITEMS, config.items_per_category, config.item_overlap)
        self.logits = PortfolioLogits(open_stream(config.seed, _LOGITS), self.sampler.probabilities, config)
        self.delayed = [o for o, name in enumerate(config.objectives) if name in config.delayed_objectives]
        self.delays = PlantedDelays(
            open_stream(config.seed, _DELAYS),
            self.sampler.probabilities,
            objectives=len(self.delayed),
            fields=config.entity_fields,
            dense_fields=config.dense_fields,
            hours=config.delay_hours * (config.domains if len(config.delay_hours) == 1 else 1),
            deviation=config.delay_deviation,
            longest_window=int(config.longest_window_hours * 3600),
        )
        shares = config.domain_shares or (1 / config.domains,) * config.domains
        self._domain_ends = np.cumsum(shares)[:-1]
        self.biases = self._find_biases()  # [G, O] float64

    def schema(self) -> Schema:
        """Returns the resolved schema.

        The columns "user" and "item" and the fields are ids with encoding "identity" (id 0, for out-of-vocabulary
        values, never occurs). "history" uses the item's table, with the latest item last. Rows are grouped by user.
        """
        config = self.config
        values = {f"field_{i}": config.values_per_field for i in range(config.fields)}
        values |= {f"useless_{i}": config.values_per_field for i in range(config.useless_fields)}
        values |= {"domain_id": config.domains} if config.domain_as_field else {}
        rows = {"user": self.users.rows, "item": self.items.rows} | {name: count + 1 for name, count in values.items()}
        dense = [f"dense_{i}" for i in range(config.dense_fields)]
        dense += [f"useless_dense_{i}" for i in range(config.useless_dense_fields)]
        lengths = (config.sequence_length,) if config.sequence_length else ()
        history = [
            CategoricalColumn("history", separator="|", max_length=length, vocabulary_of="item") for length in lengths
        ]
        return Schema(
            name="planted_portfolios",
            source=Source(format="csv"),
            labels=tuple(LabelColumn(name) for name in config.objectives),
            split=Split(by="order"),
            dense=tuple(DenseColumn(name) for name in dense),
            categorical=tuple(CategoricalColumn(name, encoding="identity", rows=n) for name, n in rows.items()),
            sequences=tuple(history),
            domain="domain",
            domain_values=config.domain_names,
            timestamp="timestamp",
            group="user",
        )

    def list_useless(self) -> list[str]:
        """Returns the names of the feature columns that no true logit depends on; never includes the domain's id."""
        config, structures = self.config, self.logits.structures
        hidden = {f for s in structures for terms in s.terms.values() for term in terms for f in term.fields}
        hidden |= set(range(config.entity_fields + config.dense_fields)) if 1 in config.orders else set()
        hidden |= {1} if self.logits.matches else set()
        columns = ["user", "item", *(f"field_{i}" for i in range(config.fields))]
        columns += [f"dense_{i}" for i in range(config.dense_fields)]
        useless = [name for field, name in enumerate(columns) if field not in hidden]
        useless += [f"useless_{i}" for i in range(config.useless_fields)]
        useless += [f"useless_dense_{i}" for i in range(config.useless_dense_fields)]
        return useless + (["history"] if config.sequence_length and not self.logits.matches else [])

    def first_row(self, split: str) -> int:
        """Returns the first row of a split in the stream; splits follow each other without gaps."""
        return sum(self.config.rows(name) for name in SPLITS[: SPLITS.index(split)])

    def generate(self, first_row: int, rows: int) -> PlantedRows:
        """Generates rows of an endless stream; a row does not depend on the requested range.

        Args:
          first_row: number of the first row, from 0.
          rows: number of rows, at least 1.
        """
        parts = []
        for block in range(first_row // BLOCK_ROWS, -(-(first_row + rows) // BLOCK_ROWS)):
            start = max(first_row - block * BLOCK_ROWS, 0)
            stop = min(first_row + rows - block * BLOCK_ROWS, BLOCK_ROWS)
            columns, logit, converted = self._make_block(block)
            kept = {name: array[start:stop] for name, array in columns.items()}
            parts.append(PlantedRows(kept, logit[start:stop], converted[start:stop]))
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in COLUMN_DTYPES}
        return PlantedRows(
            columns, np.concatenate([part.logit for part in parts]), np.concatenate([part.converted for part in parts])
        )

    def iterate_split(self, split: str) -> Iterator[PlantedRows]:
        """Yields a split's rows in order, at most one block at a time."""
        row = self.first_row(split)
        end = row + self.config.rows(split)
        while row < end:
            stop = min((row // BLOCK_ROWS + 1) * BLOCK_ROWS, end)
            yield self.generate(row, stop - row)
            row = stop

    def sample_logits(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws the logits of rows that are in no split, spread evenly over the whole time.

        Args:
          rows: number of rows.

        Returns:
          ([G, B, O] float32 true logits of the same rows in every domain, since values have the same distribution in
          all domains; [B] int32 domain of each row, drawn by the domains' shares).
        """
        logits, domains = self._sample_unbiased(rows)
        return logits + self.biases[:, None].astype(np.float32), domains

    def _sample_unbiased(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        logits, domains = [], []
        for block in range(-(-rows // BLOCK_ROWS)):
            draws = self._draw_block(_SAMPLE, block)
            parts = self.logits.parts(draws.values, draws.dense, draws.history)
            turn = self._turn((block * BLOCK_ROWS + np.arange(BLOCK_ROWS) + 0.5) / rows)
            every = [np.full(BLOCK_ROWS, g, np.int32) for g in range(self.config.domains)]
            logits.append(np.stack([self.logits.combine(parts, domain, turn) for domain in every]))
            domains.append(draws.domain)
        return np.concatenate(logits, axis=1)[:, :rows], np.concatenate(domains)[:rows]

    def _find_biases(self) -> np.ndarray:
        """Finds the bias of each portfolio for which its mean probability equals the objective's base rate."""
        logits, _ = self._sample_unbiased(_BIAS_ROWS)
        biases = np.zeros((len(logits), len(self.config.base_rates)))
        for (g, o), _ in np.ndenumerate(biases):
            own, rate = logits[g, :, o].astype(np.float64), self.config.base_rates[o]
            biases[g, o] = brentq(lambda b, own=own, rate=rate: expit(own + b).mean() - rate, -100, 100, xtol=1e-9)
        return biases

    def _turn(self, time: np.ndarray) -> np.ndarray:
        """Returns the weights' rotation by drift in radians; time 0 is the first row, 1 is one past the last."""
        return np.radians(self.config.drift_degrees) * time

    def _draw_ids(self, stream: int, members: int, overlap: float) -> PlantedIds:
        config = self.config
        return PlantedIds(
            open_stream(config.seed, stream),
            groups=config.values_per_field,
            members=members,
            overlap=overlap,
            domains=config.domains,
            zipf_exponent=config.zipf_exponent,
        )

    def _draw_block(self, stream: int, block: int) -> _Draws:
        config, generator = self.config, open_stream(self.config.seed, stream, block)
        domain = np.searchsorted(self._domain_ends, generator.random(BLOCK_ROWS), side="right").astype(np.int32)
        values = self.sampler.draw(generator, (BLOCK_ROWS, config.entity_fields))
        users = self.users.draw(generator, values[:, 0], domain)
        items = self.items.draw(generator, values[:, 1], domain)
        useless = self.sampler.draw(generator, (BLOCK_ROWS, config.useless_fields))
        history = self.sampler.draw(generator, (BLOCK_ROWS, config.sequence_length))
        past_items = self.items.draw(generator, history, domain[:, None])
        domain_ids = [1 + domain[:, None]] if config.domain_as_field else []
        slots = [users[:, None], items[:, None], values[:, 2:], useless, *domain_ids, past_items]
        return _Draws(
            domain=domain,
            values=values,
            dense=generator.standard_normal((BLOCK_ROWS, config.dense_fields), np.float32),
            history=history,
            ids=np.concatenate(slots, axis=1),
            useless_dense=generator.standard_normal((BLOCK_ROWS, config.useless_dense_fields), np.float32),
            label_uniform=generator.random((BLOCK_ROWS, len(config.objectives))),
            delay_uniform=generator.random((BLOCK_ROWS, len(self.delayed))),
        )

    def _make_block(self, block: int) -> PlantedRows:
        """Generates one block of the stream."""
        config, draws = self.config, self._draw_block(_ROWS, block)
        row = block * BLOCK_ROWS + np.arange(BLOCK_ROWS)
        parts = self.logits.parts(draws.values, draws.dense, draws.history)
        logit = self.logits.combine(parts, draws.domain, self._turn(row / config.total_rows))
        logit += self.biases[draws.domain].astype(np.float32)
        observed = np.array(
            [[config.is_observed(g, o) for o in range(len(config.objectives))] for g in range(config.domains)]
        )[draws.domain]
        labels = (draws.label_uniform < expit(logit.astype(np.float64))) & observed
        seconds = FIRST_SECOND + (row * (config.days * 86400 / config.total_rows)).astype(np.int64)
        arrays = {
            "dense": np.concatenate([draws.dense, draws.useless_dense], axis=1),
            "ids": draws.ids,
            "labels": labels,
            "label_mask": observed,
            "domain": draws.domain,
            "group": draws.ids[:, 0],
            "timestamp": seconds,
            "weight": np.ones(BLOCK_ROWS),
        }
        columns = {name: array.astype(COLUMN_DTYPES[name], copy=False) for name, array in arrays.items()}
        return PlantedRows(columns, logit, self._convert(draws, labels, seconds))

    def _convert(self, draws: _Draws, labels: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Draws the second of each conversion, [B, O] int64, -1 = none."""
        converted = np.full(labels.shape, -1, np.int64)
        if self.delayed:
            scales = self.delays.scales(draws.values, draws.dense, draws.domain)
            delays = self.delays.draw(draws.delay_uniform, scales)
            converted[:, self.delayed] = np.where(labels[:, self.delayed], seconds[:, None] + delays, -1)
        return converted
