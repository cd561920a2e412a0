"""What to plant: domains, objectives, their relatedness and conflict, sequences, drift and delays."""

import dataclasses
import itertools
from typing import Annotated, Any

from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast, Between, Fraction, Inside, Range, check_ranges


@dataclasses.dataclass(frozen=True)
class PlantedPortfoliosConfig:
    """A planted data set of several domains and objectives; everything follows from these numbers.

    Values, users' segments and items' categories are all numbers 1 to `values_per_field`, 1 the most frequent.
    """

    seed: Annotated[int, AtLeast(0)] = 0
    domains: Annotated[int, AtLeast(1)] = 3  # G; named domain_0, domain_1, ...
    domain_shares: Annotated[tuple[float, ...], Above(0)] = ()  # of the rows, one per domain, sum 1; empty = equal
    domain_as_field: bool = False  # the domain also as a categorical column, for models that do not read `domain`
    objectives: tuple[str, ...] = ("click", "like")  # names of the O labels
    # mean label of each objective, the same in every domain
    base_rates: Annotated[tuple[float, ...], Inside(0, 1)] = (0.25, 0.1)
    absent_portfolios: tuple[str, ...] = ()  # as "domain_1/like": not observed there, label mask 0
    # correlation of an objective's true logits in two domains, 0 to 1
    domain_relatedness: Annotated[float, Between(0, 1)] = 0.7
    # correlation of two objectives' true logits in a domain, 0 to 1
    objective_relatedness: Annotated[float, Between(0, 1)] = 0.5
    opposed_domains: tuple[int, ...] = ()  # their common part has the other sign: conflict with all domains not listed
    users_per_segment: Annotated[int, AtLeast(1)] = 20  # users of a domain = segments x this
    items_per_category: Annotated[int, AtLeast(1)] = 4  # items of a domain = categories x this
    # share of a domain's users that are in every domain; the others are in it alone
    user_overlap: Annotated[float, Between(0, 1)] = 0.5
    item_overlap: Annotated[float, Between(0, 1)] = 0.5  # the same of items
    fields: Annotated[int, AtLeast(0)] = 4  # categorical fields beside user and item
    # the centred coordinates of two values all lie on one line, and a term's may cancel
    values_per_field: Annotated[int, AtLeast(3)] = 50
    zipf_exponent: Annotated[float, AtLeast(0)] = 1.1  # of all frequencies; 0 = uniform
    dense_fields: Annotated[int, AtLeast(0)] = 2  # standard normal numbers; they join orders 1 and 2
    useless_fields: Annotated[int, AtLeast(0)] = 0  # categorical columns that no logit depends on
    useless_dense_fields: Annotated[int, AtLeast(0)] = 0  # dense ones
    orders: tuple[int, ...] = (1, 2)  # ascending
    # of the logit's variance without the sequence's share, sum 1
    order_shares: Annotated[tuple[float, ...], Above(0)] = (0.3, 0.7)
    # terms of each order from 2 up (subsets of fields); all where there are fewer
    interactions: Annotated[int, AtLeast(1)] = 12
    latent_width: Annotated[int, AtLeast(1)] = 2  # coordinates of a value
    sequence_length: Annotated[int, AtLeast(0)] = 0  # items in a row's history; 0 = no such column
    sequence_share: Annotated[float, Fraction()] = 0.0  # of the logit's variance: the item against the history
    # weight of an item of the history against the one after it
    sequence_decay: Annotated[float, Range(0, 1, includes_low=False)] = 0.8
    logit_deviation: Annotated[float, Above(0)] = 1.5  # standard deviation of every portfolio's true logit
    days: Annotated[float, Above(0)] = 14.0  # that the rows of all splits are spread over, evenly
    drift_degrees: Annotated[float, AtLeast(0)] = 0.0  # that the planted weights turn from the first row to the last
    delayed_objectives: tuple[str, ...] = ()  # their positives come after the impression
    # scale of the exponential delay: one per domain, or one for all
    delay_hours: Annotated[tuple[float, ...], Above(0)] = (24.0,)
    delay_deviation: Annotated[float, AtLeast(0)] = 0.5  # of the natural logarithm of a row's scale, from its columns
    longest_window_hours: Annotated[float, AtLeast(1 / 3600)] = 168.0  # no conversion comes later
    train_rows: Annotated[int, AtLeast(0)] = 1_000_000
    validation_rows: Annotated[int, AtLeast(0)] = 100_000
    test_rows: Annotated[int, AtLeast(0)] = 200_000

    def __post_init__(self) -> None:
        """Refuses values out of range, by name."""
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
        """Hidden categorical values of a row that logits depend on: segment, category, then the fields."""
        return 2 + self.fields

    @property
    def total_rows(self) -> int:
        """Rows of all splits."""
        return sum(self.rows(split) for split in SPLITS)

    def rows(self, split: str) -> int:
        """Rows of a split."""
        return {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]

    def is_observed(self, domain: int, objective: int) -> bool:
        """Whether the portfolio exists."""
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
