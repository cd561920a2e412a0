"""Configures planted portfolios: domains, objectives, their relatedness and conflict, sequences, drift and delays."""

import dataclasses
import itertools
from typing import Any

from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PlantedPortfoliosConfig:
    """Configuration of a planted data set with several domains and objectives, which determines all of its rows.

    Field values, users' segments and items' categories are numbers from 1 (the most frequent) to `values_per_field`.
    """

    seed: int = 0
    domains: int = 3  # G; named domain_0, domain_1, ...
    domain_shares: tuple[float, ...] = ()  # of the rows, one per domain, sum 1; empty = equal
    domain_as_field: bool = False  # the domain also as a categorical column, for models that do not read `domain`
    objectives: tuple[str, ...] = ("click", "like")  # names of the O labels
    base_rates: tuple[float, ...] = (0.25, 0.1)  # mean label of each objective, the same in every domain
    absent_portfolios: tuple[str, ...] = ()  # as "domain_1/like": not observed there, label mask 0
    domain_relatedness: float = 0.7  # correlation of an objective's true logits in two domains, 0 to 1
    objective_relatedness: float = 0.5  # correlation of two objectives' true logits in a domain, 0 to 1
    opposed_domains: tuple[int, ...] = ()  # their common part has the other sign: conflict with all domains not listed
    users_per_segment: int = 20  # users of a domain = segments x this
    items_per_category: int = 4  # items of a domain = categories x this
    user_overlap: float = 0.5  # share of a domain's users that are in every domain; the others are in it alone
    item_overlap: float = 0.5  # the same of items
    fields: int = 4  # categorical fields beside user and item
    values_per_field: int = 50
    zipf_exponent: float = 1.1  # of all frequencies; 0 = uniform
    dense_fields: int = 2  # standard normal numbers; they join orders 1 and 2
    useless_fields: int = 0  # categorical columns that no logit depends on
    useless_dense_fields: int = 0  # dense ones
    orders: tuple[int, ...] = (1, 2)  # ascending
    order_shares: tuple[float, ...] = (0.3, 0.7)  # of the logit's variance without the sequence's share, sum 1
    interactions: int = 12  # terms of each order from 2 up (subsets of fields); all where there are fewer
    latent_width: int = 2  # coordinates of a value
    sequence_length: int = 0  # items in a row's history; 0 = no such column
    sequence_share: float = 0.0  # of the logit's variance: the item against the history
    sequence_decay: float = 0.8  # weight of an item of the history against the one after it, above 0, at most 1
    logit_deviation: float = 1.5  # standard deviation of every portfolio's true logit
    days: float = 14.0  # that the rows of all splits are spread over, evenly
    drift_degrees: float = 0.0  # that the planted weights turn from the first row to the last
    delayed_objectives: tuple[str, ...] = ()  # their positives come after the impression
    delay_hours: tuple[float, ...] = (24.0,)  # scale of the exponential delay: one per domain, or one for all
    delay_deviation: float = 0.5  # of the natural logarithm of a row's scale, from its columns
    longest_window_hours: float = 168.0  # no conversion comes later
    train_rows: int = 1_000_000
    validation_rows: int = 100_000
    test_rows: int = 200_000

    def __post_init__(self) -> None:
        """Refuses values out of range, by name."""
        self._check_portfolios()
        self._check_columns()
        self._check_logit()
        self._check_time()
        for split in SPLITS:
            _require(self.rows(split) >= 0, f"{split}_rows", self.rows(split), "at least 0")
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
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(self.domains >= 1, "domains", self.domains, "at least 1")
        shares, names = self.domain_shares, self.objectives
        fitting = not shares or (len(shares) == self.domains and min(shares) > 0 and abs(sum(shares) - 1) < 1e-6)
        _require(fitting, "domain_shares", shares, f"{self.domains} above 0 and of sum 1, or empty")
        plain = bool(names) and len(set(names)) == len(names) and all(name and "/" not in name for name in names)
        _require(plain, "objectives", names, "distinct names without '/'")
        fitting = len(self.base_rates) == len(names) and all(0 < rate < 1 for rate in self.base_rates)
        _require(fitting, "base_rates", self.base_rates, f"one between 0 and 1 for each of the objectives {names}")
        portfolios = [f"{domain}/{name}" for domain in self.domain_names for name in names]
        for portfolio in self.absent_portfolios:
            _require(portfolio in portfolios, "absent_portfolios", portfolio, f"of {', '.join(portfolios)}")
        for o, name in enumerate(names):
            observed = any(self.is_observed(g, o) for g in range(self.domains))
            _require(observed, "absent_portfolios", self.absent_portfolios, f"such that {name!r} is in some domain")
        for key in ("domain_relatedness", "objective_relatedness", "user_overlap", "item_overlap"):
            _require(0 <= getattr(self, key) <= 1, key, getattr(self, key), "from 0 to 1")
        opposed = set(self.opposed_domains)
        fitting = opposed <= set(range(self.domains)) and len(opposed) == len(self.opposed_domains)
        _require(fitting, "opposed_domains", self.opposed_domains, f"distinct domains, 0 to {self.domains - 1}")
        if opposed:
            _require(self.domain_relatedness > 0, "domain_relatedness", 0, "above 0 with opposed_domains")

    def _check_columns(self) -> None:
        for key in ("users_per_segment", "items_per_category"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        for key in ("fields", "dense_fields", "useless_fields", "useless_dense_fields", "sequence_length"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "at least 0")
        # With two values, all centred coordinates lie on one line, and those of a term may cancel.
        _require(self.values_per_field >= 3, "values_per_field", self.values_per_field, "at least 3")
        for key in ("users_per_segment", "items_per_category"):
            ids = self.values_per_field * getattr(self, key) * self.domains
            _require(ids < 2**31 - 1, key, getattr(self, key), "such that ids of all domains are below 2^31 - 1")
        _require(self.zipf_exponent >= 0, "zipf_exponent", self.zipf_exponent, "at least 0")

    def _check_logit(self) -> None:
        ascending = all(a < b for a, b in itertools.pairwise(self.orders))
        _require(bool(self.orders) and self.orders[0] >= 1 and ascending, "orders", self.orders, "ascending, from 1")
        fitting = len(self.order_shares) == len(self.orders) and min(self.order_shares) > 0
        _require(fitting, "order_shares", self.order_shares, f"one above 0 for each of the orders {self.orders}")
        _require(abs(sum(self.order_shares) - 1) < 1e-6, "order_shares", self.order_shares, "of sum 1")
        _require(self.interactions >= 1, "interactions", self.interactions, "at least 1")
        _require(self.latent_width >= 1, "latent_width", self.latent_width, "at least 1")
        _require(0 <= self.sequence_share < 1, "sequence_share", self.sequence_share, "from 0 to below 1")
        if self.sequence_share:
            _require(self.sequence_length > 0, "sequence_length", 0, "above 0 with a sequence_share")
        _require(0 < self.sequence_decay <= 1, "sequence_decay", self.sequence_decay, "above 0, at most 1")
        _require(self.logit_deviation > 0, "logit_deviation", self.logit_deviation, "above 0")

    def _check_time(self) -> None:
        _require(self.days > 0, "days", self.days, "above 0")
        _require(self.drift_degrees >= 0, "drift_degrees", self.drift_degrees, "at least 0")
        delayed = self.delayed_objectives
        fitting = set(delayed) <= set(self.objectives) and len(set(delayed)) == len(delayed)
        _require(fitting, "delayed_objectives", delayed, f"distinct and of {', '.join(self.objectives)}")
        fitting = len(self.delay_hours) in (1, self.domains) and min(self.delay_hours) > 0
        _require(fitting, "delay_hours", self.delay_hours, f"above 0, one or {self.domains}")
        _require(self.delay_deviation >= 0, "delay_deviation", self.delay_deviation, "at least 0")
        seconds = self.longest_window_hours * 3600
        _require(seconds >= 1, "longest_window_hours", self.longest_window_hours, "at least a second")


def _require(holds: bool, key: str, value: Any, limit: str) -> None:
    if not holds:
        raise UserError(f"{key} = {value!r}: must be {limit}")
