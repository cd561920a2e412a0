"""Configures planted clicks: fields, orders of interactions, number of rows."""

import dataclasses
import itertools
from typing import Annotated, Any

from wukong_jax.data.blocks.row_blocks import SPLITS
from wukong_jax.data.planted.structures import Structure
from wukong_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PlantedClicksConfig:
    """Configuration of a planted data set, which determines all of its rows."""

    seed: Annotated[int, "random seed"] = 0
    fields: Annotated[int, "number of categorical fields"] = 16
    values_per_field: Annotated[int, "values of each field"] = 50
    zipf_exponent: Annotated[float, "exponent of the values' frequencies; 0 = uniform"] = 1.1
    dense_fields: Annotated[int, "number of standard normal columns, in orders 1 and 2 (with groups only in 1)"] = 0
    structure: Annotated[Structure, "terms share a field's vectors, or have separate ones"] = "factorized"
    orders: Annotated[tuple[int, ...], "orders of interactions, ascending"] = (1, 2)
    order_shares: Annotated[tuple[float, ...], "share of the logit's variance by order, sum 1"] = (0.3, 0.7)
    interactions: Annotated[int, "terms (sets of fields) of each order from 2 up; all sets if there are fewer"] = 24
    latent_width: Annotated[int, "latent coordinates of a value"] = 4
    groups: Annotated[int, "random groups of fields; 0 = none"] = 0
    group_share: Annotated[float, "share of the terms of order 2 up within one group; others join several"] = 1.0
    logit_deviation: Annotated[float, "standard deviation of the true logit"] = 1.5
    base_rate: Annotated[float, "mean label"] = 0.25
    train_rows: Annotated[int, "training rows"] = 1_000_000
    validation_rows: Annotated[int, "validation rows"] = 100_000
    test_rows: Annotated[int, "test rows"] = 200_000

    def __post_init__(self) -> None:
        """Checks all values."""
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(self.fields >= 0, "fields", self.fields, "at least 0")
        _require(self.dense_fields >= 0, "dense_fields", self.dense_fields, "at least 0")
        _require(2 <= self.values_per_field < 2**31 - 1, "values_per_field", self.values_per_field, "at least 2")
        _require(self.zipf_exponent >= 0, "zipf_exponent", self.zipf_exponent, "at least 0")
        _require(
            self.structure in ("factorized", "field_aware"), "structure", self.structure, "factorized or field_aware"
        )
        ascending = all(a < b for a, b in itertools.pairwise(self.orders))
        _require(bool(self.orders) and self.orders[0] >= 1 and ascending, "orders", self.orders, "ascending, from 1")
        fitting = len(self.order_shares) == len(self.orders) and min(self.order_shares) > 0
        _require(fitting, "order_shares", self.order_shares, f"one above 0 for each of the orders {self.orders}")
        _require(abs(sum(self.order_shares) - 1) < 1e-6, "order_shares", self.order_shares, "of sum 1")
        _require(self.interactions >= 1, "interactions", self.interactions, "at least 1")
        _require(self.latent_width >= 1, "latent_width", self.latent_width, "at least 1")
        self._check_groups()
        _require(self.logit_deviation > 0, "logit_deviation", self.logit_deviation, "above 0")
        _require(0 < self.base_rate < 1, "base_rate", self.base_rate, "between 0 and 1")
        for split in SPLITS:
            _require(self.rows(split) >= 0, f"{split}_rows", self.rows(split), "at least 0")

    def _check_groups(self) -> None:
        fitting = self.groups == 0 or 2 <= self.groups <= self.fields // 2
        _require(fitting, "groups", self.groups, f"0, or 2 to half of fields = {self.fields}")
        _require(self.groups == 0 or self.orders[-1] > 1, "groups", self.groups, "0 where order 1 is the only one")
        if self.groups == 0:
            _require(self.group_share == 1, "group_share", self.group_share, "1 without groups; set groups")
        inside = round(self.group_share * self.interactions)
        _require(
            self.group_share <= 1 and inside >= 1, "group_share", self.group_share, "at most 1, and at least a term"
        )

    def rows(self, split: str) -> int:
        """Returns the number of rows of a split."""
        return {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]


def _require(holds: bool, key: str, value: Any, limit: str) -> None:
    if not holds:
        raise UserError(f"{key} = {value!r}: must be {limit}")
