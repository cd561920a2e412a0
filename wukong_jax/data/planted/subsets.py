"""Draws the sets of fields that planted interactions join, among all fields or within groups of fields."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from wukong_jax.errors import UserError

Subset = tuple[int, ...]  # ascending


def draw_subsets(
    generator: np.random.Generator,
    order: int,
    eligible: int,
    count: int,
    accept: Callable[[Subset], bool] = lambda subset: True,
) -> list[Subset]:
    """Draws distinct subsets of the fields 0 to `eligible` - 1; all fields are in about the same number of subsets.

    Args:
      generator: random generator.
      order: number of fields in a subset, at most `eligible`.
      eligible: number of fields to choose from.
      count: number of subsets; all possible subsets if there are fewer.
      accept: tells whether a subset may be drawn; must accept at least a quarter of all subsets.
    """
    if math.comb(eligible, order) <= 4 * count:
        every = [subset for subset in itertools.combinations(range(eligible), order) if accept(subset)]
        chosen = generator.permutation(len(every))[:count]
        return [every[i] for i in sorted(chosen)]
    subsets: dict[Subset, None] = {}
    while len(subsets) < count:
        shuffled = generator.permutation(eligible)
        for start in range(0, eligible - order + 1, order):
            subset = tuple(sorted(shuffled[start : start + order].tolist()))
            if accept(subset):
                subsets[subset] = None
    return list(subsets)[:count]


def draw_groups(generator: np.random.Generator, fields: int, groups: int) -> tuple[Subset, ...]:
    """Draws a random partition of the fields into groups of nearly equal size.

    The partitions into consecutive fields and into every `groups`-th field are excluded.

    Args:
      generator: random generator.
      fields: number of fields, at least 4.
      groups: number of groups, at least 2, with at least 2 fields each, so that another partition exists.

    Returns:
      The fields of each group; groups are sorted by their first field.
    """
    strided = tuple(tuple(range(first, fields, groups)) for first in range(groups))
    while True:
        parts = np.array_split(generator.permutation(fields), groups)
        drawn = tuple(sorted(tuple(sorted(part.tolist())) for part in parts))
        neighbours = [field for group in drawn for field in group] == list(range(fields))
        if not neighbours and drawn != strided:
            return drawn


def draw_grouped_subsets(
    generator: np.random.Generator, order: int, groups: Sequence[Subset], count: int, inside_share: float
) -> list[Subset]:
    """Draws distinct subsets of fields, a share of them within one group each, the others over two or more groups.

    Args:
      generator: random generator.
      order: number of fields in a subset.
      groups: partition of the fields.
      count: number of subsets; all possible subsets if there are fewer.
      inside_share: share of the subsets that are within a group, spread evenly over the groups.

    Raises:
      UserError: the smallest group has fewer than `order` fields.
    """
    smallest = min(map(len, groups))
    if smallest < order:
        raise UserError(
            f"groups = {len(groups)}: the smallest has {smallest} fields, order {order} needs {order}; take fewer "
            "groups, more fields or lower orders"
        )
    inside = round(inside_share * count)
    subsets: list[Subset] = []
    for group, quota in zip(groups, _spread(inside, [math.comb(len(group), order) for group in groups]), strict=True):
        if quota:
            drawn = draw_subsets(generator, order, len(group), quota)
            subsets += [tuple(group[place] for place in subset) for subset in drawn]
    if count > inside:
        fields = sum(map(len, groups))
        group_of = {field: index for index, group in enumerate(groups) for field in group}
        # At least half of all subsets span several groups, since two fields are more often in different groups.
        subsets += draw_subsets(
            generator, order, fields, count - inside, lambda subset: len({group_of[field] for field in subset}) > 1
        )
    return subsets


def _spread(count: int, limits: Sequence[int]) -> list[int]:
    """Divides `count` evenly into shares of at most their limits; the rest is left out."""
    shares = [0] * len(limits)
    left = min(count, sum(limits))
    while left:
        open_ones = [index for index, limit in enumerate(limits) if shares[index] < limit]
        for index in open_ones[:left]:
            shares[index] += 1
        left -= min(left, len(open_ones))
    return shares
