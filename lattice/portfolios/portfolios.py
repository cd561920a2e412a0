"""Portfolios: the (domain, objective) pairs of a data set, and what each has in rows, ids, density and delay."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from wukong_jax.data.blocks.conversion_log import ConversionLog
from wukong_jax.data.blocks.row_blocks import RowBlocks
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema

# The delay of what is known at once: logarithms of delays are compared, and nothing is reported faster.
IMMEDIATE_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Portfolio:
    """One (domain, objective) pair and its rows."""

    domain: str
    objective: str
    rows: int  # on which the objective was observed
    positives: int
    users: int  # different ids of the user column; 0 where no column was named
    items: int
    delay_seconds: float  # median time to the positive outcome
    weight: float  # what it is worth, such as its revenue; relative

    @property
    def name(self) -> str:
        """As metrics are named."""
        return f"{self.domain}/{self.objective}"

    @property
    def density(self) -> float:
        """Share of positive labels; half a label where there is none, so that its logarithm exists."""
        return max(self.positives, 0.5) / self.rows


@dataclasses.dataclass(frozen=True)
class PortfolioRows:
    """The portfolios of a split, and the ids that they share or do not."""

    portfolios: tuple[Portfolio, ...]
    users: tuple[np.ndarray, ...]  # ascending ids of each
    items: tuple[np.ndarray, ...]
    ids: Mapping[str, Mapping[str, np.ndarray]]  # domain -> vocabulary -> ascending ids in its rows

    @property
    def traffic(self) -> dict[str, int]:
        """Rows of each domain: those of its portfolio that is observed most."""
        rows: dict[str, int] = {}
        for portfolio in self.portfolios:
            rows[portfolio.domain] = max(rows.get(portfolio.domain, 0), portfolio.rows)
        return rows

    def count_ids(self, domains: Collection[str]) -> int:
        """Different (vocabulary, id) pairs in the rows of some domains: the embeddings that their model reads."""
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
    """Counts the portfolios of a split.

    Args:
      blocks: the split's rows.
      user: id column of users; empty: none.
      item: id column of items.
      conversions: times of positive outcomes of these rows; objectives that it lacks are known at once.
      weights: by portfolio ("domain/objective"); others weigh 1.

    Returns:
      The portfolios that have rows, domains outermost.

    Raises:
      UserError: no such column or portfolio, or a weight below 0.
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
            len(seen[g, o].users),
            len(seen[g, o].items),
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
    """The table of portfolios, one a line."""
    header = ("portfolio", "rows", "positives", "density", "users", "items", "median delay", "weight")
    lines = [header] + [
        (
            p.name,
            f"{p.rows:,}",
            f"{p.positives:,}",
            f"{p.density:.4f}",
            f"{p.users:,}",
            f"{p.items:,}",
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
    """A duration in the largest unit that leaves a number of at least 1: "90 s", "2.5 h", "7 d"."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


class _Seen:
    """What one portfolio's rows hold."""

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
    """The different ids of each vocabulary that some rows read."""

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
    for column, start, stop in schema.slot_ranges():
        if column.name == name:
            return list(range(start, stop))
    known = ", ".join(column.name for column in schema.id_columns)
    raise UserError(f"column {name!r}: no id column of the data; it has {known}")


def _measure_delays(
    conversions: ConversionLog | None, stamps: np.ndarray, blocks: RowBlocks
) -> dict[tuple[int, int], float]:
    """Median seconds from impression to its first conversion, by (domain, objective)."""
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
    first = np.ones(len(order), bool)  # of its impression and objective
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
