"""Configures planted clicks: fields, orders of interactions, number of rows."""

import dataclasses
import itertools
from typing import Annotated, Any

from wukong_jax.data.planted.structures import Structure
from wukong_jax.errors import UserError
from wukong_jax.ranges import Above, AtLeast, Between, Inside, check_ranges


@dataclasses.dataclass(frozen=True)
class PlantedClicksConfig:
    """Configuration of a planted data set, which determines all of its rows."""

    seed: Annotated[int, "random seed", AtLeast(0)] = 0
    fields: Annotated[int, "number of categorical fields", AtLeast(0)] = 16
    values_per_field: Annotated[int, "values of each field", Between(2, 2**31 - 2)] = 50
    zipf_exponent: Annotated[float, "exponent of the values' frequencies; 0 = uniform", AtLeast(0)] = 1.1
    dense_fields: Annotated[int, "standard normal columns, in orders 1 and 2 (only 1 with groups)", AtLeast(0)] = 0
    structure: Annotated[Structure, "terms share a field's vectors, or have separate ones"] = "factorized"
    orders: Annotated[tuple[int, ...], "orders of interactions, ascending"] = (1, 2)
    order_shares: Annotated[tuple[float, ...], "share of the logit's variance by order, sum 1", Above(0)] = (0.3, 0.7)
    interactions: Annotated[int, "sets of fields of each order from 2 up; all if there are fewer", AtLeast(1)] = 24
    latent_width: Annotated[int, "latent coordinates of a value", AtLeast(1)] = 4
    groups: Annotated[int, "random groups of fields; 0 = none"] = 0
    group_share: Annotated[float, "share of these sets within one group; others join several", Between(0, 1)] = 1.0
    logit_deviation: Annotated[float, "standard deviation of the true logit", Above(0)] = 1.5
    base_rate: Annotated[float, "mean label", Inside(0, 1)] = 0.25
    train_rows: Annotated[int, "training rows", AtLeast(0)] = 1_000_000
    validation_rows: Annotated[int, "validation rows", AtLeast(0)] = 100_000
    test_rows: Annotated[int, "test rows", AtLeast(0)] = 200_000

    def __post_init__(self) -> None:
        """Checks all values."""
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
        """Returns the number of rows of a split."""
        return {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]


def _require(holds: bool, key: str, value: Any, limit: str) -> None:
    if not holds:
        raise UserError(f"{key} = {value!r}: must be {limit}")
