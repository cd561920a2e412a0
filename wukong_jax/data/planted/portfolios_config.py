"""Configures planted portfolios: domains, objectives, their relatedness and conflict, sequences, drift and delays."""

import dataclasses
import itertools
from typing import Annotated, Any

from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast, Between, Fraction, Inside, Range, check_ranges


@dataclasses.dataclass(frozen=True)
class PlantedPortfoliosConfig:
    """Configuration of a planted data set with several domains and objectives, which determines all of its rows.

    Field values, users' segments and items' categories are numbers from 1 (the most frequent) to `values_per_field`.
    """

    seed: Annotated[int, "random seed", AtLeast(0)] = 0
    domains: Annotated[int, "number of domains G, named domain_0, domain_1, ...", AtLeast(1)] = 3
    domain_shares: Annotated[tuple[float, ...], "share of the rows by domain, sum 1; empty = equal", Above(0)] = ()
    domain_as_field: Annotated[bool, "add the domain as a categorical column, for models that do not read it"] = False
    objectives: Annotated[tuple[str, ...], "names of the O labels"] = ("click", "like")
    base_rates: Annotated[tuple[float, ...], "mean label by objective, equal in all domains", Inside(0, 1)] = (
        0.25,
        0.1,
    )
    absent_portfolios: Annotated[tuple[str, ...], 'not observed (label mask 0), such as "domain_1/like"'] = ()
    domain_relatedness: Annotated[float, "correlation of an objective's logits in two domains", Between(0, 1)] = 0.7
    objective_relatedness: Annotated[float, "correlation of two objectives' logits in a domain", Between(0, 1)] = 0.5
    opposed_domains: Annotated[tuple[int, ...], "domains whose common part has the opposite sign, a conflict"] = ()
    users_per_segment: Annotated[int, "users per segment and domain", AtLeast(1)] = 20
    items_per_category: Annotated[int, "items per category and domain", AtLeast(1)] = 4
    user_overlap: Annotated[float, "share of users that are in all domains; others are in one", Between(0, 1)] = 0.5
    item_overlap: Annotated[float, "share of items that are in all domains; others are in one", Between(0, 1)] = 0.5
    fields: Annotated[int, "number of categorical fields besides user and item", AtLeast(0)] = 4
    # with two values, all centred coordinates lie on one line, and those of a term may cancel
    values_per_field: Annotated[int, "values of each field", AtLeast(3)] = 50
    zipf_exponent: Annotated[float, "exponent of all frequencies; 0 = uniform", AtLeast(0)] = 1.1
    dense_fields: Annotated[int, "number of standard normal columns, in orders 1 and 2", AtLeast(0)] = 2
    useless_fields: Annotated[int, "categorical columns that no logit depends on", AtLeast(0)] = 0
    useless_dense_fields: Annotated[int, "dense columns that no logit depends on", AtLeast(0)] = 0
    orders: Annotated[tuple[int, ...], "orders of interactions, ascending"] = (1, 2)
    order_shares: Annotated[tuple[float, ...], "variance share by order, without sequence, sum 1", Above(0)] = (
        0.3,
        0.7,
    )
    interactions: Annotated[int, "sets of fields of each order from 2 up; all if there are fewer", AtLeast(1)] = 12
    latent_width: Annotated[int, "latent coordinates of a value", AtLeast(1)] = 2
    sequence_length: Annotated[int, "items in a row's history; 0 = no history", AtLeast(0)] = 0
    sequence_share: Annotated[float, "share of the variance from the item's match with the history", Fraction()] = 0.0
    sequence_decay: Annotated[float, "weight of a history item over the next", Range(0, 1, includes_low=False)] = 0.8
    logit_deviation: Annotated[float, "standard deviation of every portfolio's true logit", Above(0)] = 1.5
    days: Annotated[float, "days over which the rows of all splits are spread evenly", Above(0)] = 14.0
    drift_degrees: Annotated[float, "rotation of the planted weights from the first row to the last", AtLeast(0)] = 0.0
    delayed_objectives: Annotated[tuple[str, ...], "objectives whose positives come after the impression"] = ()
    delay_hours: Annotated[tuple[float, ...], "scale of the delay, one per domain or one for all", Above(0)] = (24.0,)
    delay_deviation: Annotated[float, "standard deviation of the scale's logarithm over rows", AtLeast(0)] = 0.5
    longest_window_hours: Annotated[float, "maximum delay of a conversion", AtLeast(1 / 3600)] = 168.0
    train_rows: Annotated[int, "training rows", AtLeast(0)] = 1_000_000
    validation_rows: Annotated[int, "validation rows", AtLeast(0)] = 100_000
    test_rows: Annotated[int, "test rows", AtLeast(0)] = 200_000

    def __post_init__(self) -> None:
        """Checks all values."""
        check_ranges(self)
        self._check_portfolios()
        self._check_columns()
        self._check_logit()
        self._check_time()
        _require(self.total_rows > 0, "train_rows", self.train_rows, "above 0 where the other splits are empty")

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The names of the G domains."""
        return tuple(f"domain_{g}" for g in range(self.domains))

    @property
    def entity_fields(self) -> int:
        """Number of categorical values of a row that logits depend on: segment and category (both hidden), fields."""
        return 2 + self.fields

    @property
    def total_rows(self) -> int:
        """Number of rows in all splits."""
        return sum(self.rows(split) for split in SPLITS)

    def rows(self, split: str) -> int:
        """Returns the number of rows of a split."""
        return {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]

    def is_observed(self, domain: int, objective: int) -> bool:
        """Whether the objective is observed in the domain."""
        return f"{self.domain_names[domain]}/{self.objectives[objective]}" not in self.absent_portfolios

    def _check_portfolios(self) -> None:
        shares, names = self.domain_shares, self.objectives
        fitting = not shares or (len(shares) == self.domains and abs(sum(shares) - 1) < 1e-6)
        _require(fitting, "domain_shares", shares, f"{self.domains} of sum 1, or empty")
        plain = bool(names) and len(set(names)) == len(names) and all(name and "/" not in name for name in names)
        _require(plain, "objectives", names, "distinct names without '/'")
        fitting = len(self.base_rates) == len(names)
        _require(fitting, "base_rates", self.base_rates, f"one for each of the objectives {names}")
        portfolios = [f"{domain}/{name}" for domain in self.domain_names for name in names]
        for portfolio in self.absent_portfolios:
            _require(portfolio in portfolios, "absent_portfolios", portfolio, f"of {', '.join(portfolios)}")
        for o, name in enumerate(names):
            observed = any(self.is_observed(g, o) for g in range(self.domains))
            _require(observed, "absent_portfolios", self.absent_portfolios, f"such that {name!r} is in some domain")
        opposed = set(self.opposed_domains)
        fitting = opposed <= set(range(self.domains)) and len(opposed) == len(self.opposed_domains)
        _require(fitting, "opposed_domains", self.opposed_domains, f"distinct domains, 0 to {self.domains - 1}")
        if opposed:
            _require(self.domain_relatedness > 0, "domain_relatedness", 0, "above 0 with opposed_domains")

    def _check_columns(self) -> None:
        for key in ("users_per_segment", "items_per_category"):
            ids = self.values_per_field * getattr(self, key) * self.domains
            _require(ids < 2**31 - 1, key, getattr(self, key), "such that ids of all domains are below 2^31 - 1")

    def _check_logit(self) -> None:
        ascending = all(a < b for a, b in itertools.pairwise(self.orders))
        _require(bool(self.orders) and self.orders[0] >= 1 and ascending, "orders", self.orders, "ascending, from 1")
        fitting = len(self.order_shares) == len(self.orders)
        _require(fitting, "order_shares", self.order_shares, f"one for each of the orders {self.orders}")
        _require(abs(sum(self.order_shares) - 1) < 1e-6, "order_shares", self.order_shares, "of sum 1")
        if self.sequence_share:
            _require(self.sequence_length > 0, "sequence_length", 0, "above 0 with a sequence_share")

    def _check_time(self) -> None:
        delayed = self.delayed_objectives
        fitting = set(delayed) <= set(self.objectives) and len(set(delayed)) == len(delayed)
        _require(fitting, "delayed_objectives", delayed, f"distinct and of {', '.join(self.objectives)}")
        _require(len(self.delay_hours) in (1, self.domains), "delay_hours", self.delay_hours, f"one or {self.domains}")


def _require(holds: bool, key: str, value: Any, limit: str) -> None:
    if not holds:
        raise UserError(f"{key} = {value!r}: must be {limit}")
