"""Portfolios, the (domain, objective) pairs of a data set: rows, ids, density and delay of each."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from wukong_jax.data.blocks.conversion_log import ConversionLog
from wukong_jax.data.blocks.row_blocks import RowBlocks
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema

# Delay of outcomes known at once, and the shortest delay: delays are compared by their logarithms.
IMMEDIATE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Portfolio:
    """One (domain, objective) pair and its rows."""

    domain: str
    objective: str
    rows: int  # number of rows in which the objective was observed
    positives: int
    users: int | None  # distinct ids of the user column; None if no column was given
    items: int | None  # distinct ids of the item column; None if no column was given
    delay_seconds: float  # median time to the positive outcome
    weight: float  # relative value, such as its revenue

    @property
    def name(self) -> str:
        """The name used in metrics, "domain/objective"."""
        return f"{self.domain}/{self.objective}"

    @property
    def density(self) -> float:
        """Share of positive labels, counting half a label if there is none, so that its logarithm exists."""
        return max(self.positives, 0.5) / self.rows


@dataclasses.dataclass(frozen=True)
class PortfolioRows:
    """The portfolios of a split and the ids in their rows."""

    portfolios: tuple[Portfolio, ...]
    users: tuple[np.ndarray, ...]  # user ids of each portfolio, ascending
    items: tuple[np.ndarray, ...]  # item ids of each portfolio, ascending
    ids: Mapping[str, Mapping[str, np.ndarray]]  # domain -> vocabulary -> ascending ids in its rows

    @property
    def traffic(self) -> dict[str, int]:
        """Number of rows of each domain, taken from its most observed portfolio."""
        rows: dict[str, int] = {}
        for portfolio in self.portfolios:
            rows[portfolio.domain] = max(rows.get(portfolio.domain, 0), portfolio.rows)
        return rows

    def count_ids(self, domains: Collection[str]) -> int:
        """Counts the distinct (vocabulary, id) pairs in the rows of some domains: the embeddings their model reads."""
        vocabularies = {name for domain in domains for name in self.ids[domain]}
        nothing = np.zeros(0, np.int64)
        return sum(
            len(np.unique(np.concatenate([self.ids[domain].get(name, nothing) for domain in domains])))
            for name in vocabularies
        )


def measure_portfolios(
    blocks: RowBlocks,
    user: str = "",
    item: str = "",
    conversions: ConversionLog | None = None,
    weights: Mapping[str, float] | None = None,
) -> PortfolioRows:
    """Computes the statistics of a split's portfolios.

    Args:
      blocks: rows of the split.
      user: id column of users; empty: none.
      item: id column of items; empty: none.
      conversions: times of positive outcomes in these rows; objectives without entries are known at once.
      weights: weights by portfolio ("domain/objective"); 1 for all others.

    Returns:
      The portfolios that have rows, ordered by domain, then by objective.

    Raises:
      UserError: an unknown column or portfolio, or a weight below 0.
    """
    schema = blocks.schema
    domains = schema.domain_values or ("all",)
    objectives = [label.name for label in schema.labels]
    slots = [_find_slots(schema, column) for column in (user, item)]
    seen: dict[tuple[int, int], _Seen] = {}
    touched = [_Touched(schema) for _ in domains]
    stamps = []
    for index in range(blocks.num_blocks):
        columns = blocks.read(index)
        stamps.append(columns["timestamp"])
        for domain in np.unique(columns["domain"]):
            of_domain = (columns["domain"] == domain) & (columns["weight"] > 0)
            touched[domain].add(columns["ids"][of_domain])
            for objective in range(len(objectives)):
                rows = of_domain & (columns["label_mask"][:, objective] > 0)
                if rows.any():
                    seen.setdefault((int(domain), objective), _Seen()).add(columns, rows, objective, slots)
    delays = _measure_delays(conversions, np.concatenate(stamps), blocks)
    places = sorted(seen)
    names = [f"{domains[g]}/{objectives[o]}" for g, o in places]
    worth = _read_weights(weights or {}, names)
    portfolios = tuple(
        Portfolio(
            domains[g],
            objectives[o],
            seen[g, o].rows,
            seen[g, o].positives,
            len(seen[g, o].users) if user else None,
            len(seen[g, o].items) if item else None,
            delays.get((g, o), IMMEDIATE_SECONDS),
            worth[name],
        )
        for (g, o), name in zip(places, names, strict=True)
    )
    return PortfolioRows(
        portfolios,
        tuple(seen[place].users for place in places),
        tuple(seen[place].items for place in places),
        {domain: touched[g].seen for g, domain in enumerate(domains)},
    )


def format_portfolios(portfolios: Sequence[Portfolio]) -> str:
    """Formats portfolios as a table with one line each."""
    header = ("portfolio", "rows", "positives", "density", "users", "items", "median delay", "weight")
    lines = [header] + [
        (
            p.name,
            f"{p.rows:,}",
            f"{p.positives:,}",
            f"{p.density:.4f}",
            "not given" if p.users is None else f"{p.users:,}",
            "not given" if p.items is None else f"{p.items:,}",
            "at once" if p.delay_seconds <= IMMEDIATE_SECONDS else format_seconds(p.delay_seconds),
            f"{p.weight:g}",
        )
        for p in portfolios
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def format_seconds(seconds: float) -> str:
    """Formats a duration in the largest unit in which it is at least 1: "45 s", "2.5 h", "7 d"."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


class _Seen:
    """Counts over the rows of one portfolio."""

    def __init__(self) -> None:
        self.rows = self.positives = 0
        self.users = self.items = np.zeros(0, np.int64)

    def add(self, columns: Mapping[str, np.ndarray], rows: np.ndarray, objective: int, slots: list[list[int]]) -> None:
        self.rows += int(rows.sum())
        self.positives += int((columns["labels"][rows, objective] > 0.5).sum())
        ids = columns["ids"][rows]
        self.users, self.items = (
            np.union1d(known, ids[:, own][ids[:, own] >= 0]) if own else known
            for known, own in zip((self.users, self.items), slots, strict=True)
        )


class _Touched:
    """Distinct ids of each vocabulary over some rows."""

    def __init__(self, schema: Schema) -> None:
        self._ranges = [(column.vocabulary, start, stop) for column, start, stop in schema.slot_ranges()]
        self.seen: dict[str, np.ndarray] = {}

    def add(self, ids: np.ndarray) -> None:
        for vocabulary, start, stop in self._ranges:
            own = ids[:, start:stop]
            known = self.seen.get(vocabulary, np.zeros(0, np.int64))
            self.seen[vocabulary] = np.union1d(known, own[own >= 0])


def _find_slots(schema: Schema, name: str) -> list[int]:
    if not name:
        return []
    slots = schema.column_slots
    if name not in slots:
        raise UserError(f"column {name!r}: no id column of the data; it has {', '.join(slots)}")
    return list(slots[name])


def _measure_delays(
    conversions: ConversionLog | None, stamps: np.ndarray, blocks: RowBlocks
) -> dict[tuple[int, int], float]:
    """Returns the median seconds from impression to first conversion, by (domain, objective)."""
    if conversions is None:
        return {}
    if len(conversions.impression) and conversions.impression.max() >= len(stamps):
        raise UserError(
            f"conversions: of impression {int(conversions.impression.max())}, the split has {len(stamps)} rows; give "
            "the log of this split"
        )
    domains = np.concatenate([blocks.read(index)["domain"] for index in range(blocks.num_blocks)])
    order = np.lexsort((conversions.timestamp, conversions.objective, conversions.impression))
    impression, objective = conversions.impression[order], conversions.objective[order]
    first = np.ones(len(order), bool)  # whether it is the first of its impression and objective
    first[1:] = (impression[1:] != impression[:-1]) | (objective[1:] != objective[:-1])
    impression, objective = impression[first], objective[first]
    delays = conversions.timestamp[order][first] - stamps[impression]
    places = np.stack([domains[impression], objective], axis=1)
    return {
        (int(g), int(o)): max(float(np.median(delays[(places == (g, o)).all(axis=1)])), IMMEDIATE_SECONDS)
        for g, o in np.unique(places, axis=0)
    }


def _read_weights(weights: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in names:
            raise UserError(f"weight of {name!r}: no such portfolio; the data has {', '.join(names)}")
        if not weight >= 0:
            raise UserError(f"weight of {name!r} = {weight}: at least 0")
    return {name: weights.get(name, 1.0) for name in names}
