"""Builds planted logits: sums of interactions of chosen orders, each order pure, uncorrelated and of unit variance.

Fields are independent: categorical fields have Zipf-distributed values, dense fields are standard normal. Every field
value has latent coordinates that are *centred under the field's own distribution*, with unit second moment. A term of
order m over the fields f1..fm is the sum over the latent width of the product of the fields' coordinates. Since the
fields are independent and each factor has mean zero, a term has mean zero given any m - 1 of its fields. Terms of
different fields are therefore uncorrelated, and functions of a lower order explain no part of a higher one. The
variance of a term is the sum of the elementwise product of its fields' coordinate covariances, so the scales are
exact, not estimated from samples.

- *factorized*: all terms of order 2 and up share a field's vectors, as in a factorization machine.
- *field-aware*: every term has separate vectors for each of its fields.

Order 1 has one weight per value (or a slope for a dense field) of all fields. Orders above 2 use categorical fields
only: a product of many normals is nearly always close to 0 and rarely huge, which would hide the order. For the same
reason, coordinates are a random sign times a magnitude in [0.5, 1.5] (the fourth moment is 1.3 times the squared
second moment, compared with 3 for a normal). These are our own choices.

With *groups*, the categorical fields are divided at random, and all terms, or a share of them, join fields of the same
group. Dense fields are in no group and only have order 1. The statements above hold for any set of terms.
"""

import dataclasses
import itertools
import math
from typing import Literal

import numpy as np

from wukong_jax.data.planted.subsets import Subset, draw_grouped_subsets, draw_groups, draw_subsets
from wukong_jax.errors import UserError

Structure = Literal["factorized", "field_aware"]

# Rows processed at once, so that intermediate arrays stay in the cache.
_CHUNK = 2048
_MOST_COORDINATES = 1 << 29


class ZipfSampler:
    """Draws values 1..`values` with probability proportional to value ** -exponent, by the alias method."""

    def __init__(self, values: int, exponent: float) -> None:
        """Builds the alias table in time linear in `values`."""
        weights = np.arange(1, values + 1, dtype=np.float64) ** -exponent
        self.probabilities = weights / weights.sum()  # [values]
        self._keep, self._alias = _alias_table(self.probabilities)

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Draws values.

        Args:
          generator: random generator, advanced by one uniform double per value.
          shape: shape of the result.

        Returns:
          int32 values, at least 1.
        """
        place = generator.random(shape)
        place *= len(self._keep)
        column = place.astype(np.int32)
        place -= column
        return np.where(place < self._keep[column], column, self._alias[column]) + np.int32(1)


@dataclasses.dataclass(frozen=True)
class Term:
    """One interaction: its fields and, for each field, the index of its coordinates."""

    fields: tuple[int, ...]  # categorical first, then dense
    tables: tuple[int, ...]  # indices into `PlantedLogit.tables`


class PlantedLogit:
    """The parts of a planted logit, without bias and scaling."""

    def __init__(
        self,
        generator: np.random.Generator,
        probabilities: np.ndarray,
        *,
        fields: int,
        dense_fields: int,
        structure: Structure,
        orders: tuple[int, ...],
        interactions: int,
        latent_width: int,
        groups: int = 0,
        group_share: float = 1.0,
    ) -> None:
        """Draws the terms and their coordinates.

        Args:
          generator: random generator for all draws.
          probabilities: [values] probabilities of each field's values from 1.
          fields: number of categorical fields.
          dense_fields: number of dense fields.
          structure: "factorized" or "field_aware", see the module's docstring.
          orders: orders of interactions, ascending.
          interactions: terms of each order from 2 up; all possible terms if there are fewer.
          latent_width: number of latent coordinates of a value.
          groups: number of groups of categorical fields; 0 for no groups.
          group_share: share of the terms whose fields are in one group.

        Raises:
          UserError: an order has too few fields, or the coordinates would not fit in memory.
        """
        self.fields, self.dense_fields, self.orders = fields, dense_fields, orders
        self._probabilities = probabilities
        self.weights = self._draw_tables(generator, range(fields + dense_fields), 1)
        self.groups = draw_groups(generator, fields, groups) if groups else ()
        joined = {m: self._join_fields(generator, m, interactions, group_share) for m in orders if m > 1}
        own_vectors = structure == "field_aware"
        uses = [field for subsets in joined.values() for subset in subsets for field in subset]
        owners = uses if own_vectors else sorted(set(uses))
        if len(owners) * len(probabilities) * latent_width > _MOST_COORDINATES:
            raise UserError(
                f"interactions = {interactions}: {len(owners)} x {len(probabilities)} x {latent_width} coordinates, "
                f"the limit is {_MOST_COORDINATES}; take fewer interactions, values per field or latent coordinates"
            )
        self.tables = self._draw_tables(generator, owners, latent_width)
        counter = itertools.count()
        self.terms: dict[int, tuple[Term, ...]] = {}
        for order, subsets in joined.items():
            tables = [tuple(next(counter) if own_vectors else owners.index(f) for f in subset) for subset in subsets]
            self.terms[order] = tuple(Term(*pair) for pair in zip(subsets, tables, strict=True))
        self.scales = {order: 1 / math.sqrt(self._variance(order)) for order in orders}

    def parts(self, ids: np.ndarray, dense: np.ndarray) -> np.ndarray:
        """Computes each order's part, which has unit variance under the planted distribution.

        Args:
          ids: [B, fields] int32, at least 1.
          dense: [B, dense_fields] float32.

        Returns:
          [orders, B] float32.
        """
        parts = np.empty((len(self.orders), len(ids)), np.float32)
        for start in range(0, len(ids), _CHUNK):
            rows = slice(start, min(start + _CHUNK, len(ids)))
            columns = np.ascontiguousarray(ids[rows].T)
            numbers = np.ascontiguousarray(dense[rows].T)
            gathered: dict[int, np.ndarray] = {}
            for i, order in enumerate(self.orders):
                if order == 1:
                    part = self._linear_part(columns, numbers)
                else:
                    part = self._interaction_part(order, columns, numbers, gathered)
                parts[i, rows] = part * np.float32(self.scales[order])
        return parts

    def _join_fields(self, generator: np.random.Generator, order: int, count: int, group_share: float) -> list[Subset]:
        """Draws the fields of each term of one order."""
        if self.groups:
            return draw_grouped_subsets(generator, order, self.groups, count, group_share)
        eligible = self.fields + self.dense_fields if order == 2 else self.fields
        if eligible < order:
            raise UserError(
                f"orders = {order}: needs {order} fields, there are {eligible} (dense ones join orders 1 and 2)"
            )
        return draw_subsets(generator, order, eligible, count)

    def _linear_part(self, columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        total = np.zeros(columns.shape[1] if self.fields else numbers.shape[1], np.float32)
        for field, weights in enumerate(self.weights):
            total += self._coordinates(field, weights, columns, numbers)[:, 0]
        return total

    def _interaction_part(
        self, order: int, columns: np.ndarray, numbers: np.ndarray, gathered: dict[int, np.ndarray]
    ) -> np.ndarray:
        total: np.ndarray | None = None
        for term in self.terms[order]:
            factors = []
            for field, table in zip(term.fields, term.tables, strict=True):
                if table not in gathered:
                    gathered[table] = self._coordinates(field, self.tables[table], columns, numbers)
                factors.append(gathered[table])
            product = factors[0] * factors[1]
            for factor in factors[2:]:
                product *= factor
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        # Column by column, so that the order of addition is the same for any number of rows.
        summed = total[:, 0].copy()
        for column in range(1, total.shape[1]):
            summed += total[:, column]
        return summed

    def _coordinates(self, field: int, table: np.ndarray, columns: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        if field < self.fields:
            return np.take(table, columns[field], axis=0)
        return numbers[field - self.fields][:, None] * table[0]

    def _draw_tables(self, generator: np.random.Generator, fields: range | list[int], width: int) -> list[np.ndarray]:
        tables = []
        for field in fields:
            rows = len(self._probabilities) if field < self.fields else 1
            table = generator.choice([-1.0, 1.0], (rows, width))
            if field < self.fields:
                table *= generator.uniform(0.5, 1.5, (rows, width))
                table -= self._probabilities @ table
                table /= np.sqrt(self._probabilities @ table**2)
                table = np.concatenate([np.zeros((1, width)), table])  # row 0 (out-of-vocabulary) is never used
            tables.append(table.astype(np.float32))
        return tables

    def _covariance(self, field: int, table: np.ndarray) -> np.ndarray:
        """Computes the covariance of one field's coordinates, [width, width]."""
        table = table.astype(np.float64)
        if field >= self.fields:
            return table.T @ table
        return (table[1:].T * self._probabilities) @ table[1:]

    def _variance(self, order: int) -> float:
        if order == 1:
            return sum(float(self._covariance(f, w)[0, 0]) for f, w in enumerate(self.weights))
        total = 0.0
        for term in self.terms[order]:
            product = np.ones(())
            for field, table in zip(term.fields, term.tables, strict=True):
                product = product * self._covariance(field, self.tables[table])
            total += float(product.sum())
        return total


def _alias_table(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = (probabilities * len(probabilities)).tolist()
    keep, alias = np.ones(len(scaled)), np.arange(len(scaled), dtype=np.int32)
    small = [i for i, value in enumerate(scaled) if value < 1]
    large = [i for i, value in enumerate(scaled) if value >= 1]
    while small and large:
        i, j = small.pop(), large[-1]
        keep[i], alias[i] = scaled[i], j
        scaled[j] -= 1 - scaled[i]
        if scaled[j] < 1:
            small.append(large.pop())
    return keep, alias
