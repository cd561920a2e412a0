"""Which fields the planted interactions join: subsets of fields drawn at random, over all fields or inside groups."""

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
    """Distinct subsets of `order` of the fields 0 .. `eligible` - 1, each field in about as many as any other.

    Args:
      generator: of the draw.
      order: fields of a subset, at most `eligible`.
      eligible: fields to choose from.
      count: subsets wanted; all there are where there are fewer.
      accept: which subsets may be drawn; must take at least a quarter of them.
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
    """A random partition of the fields into groups of floor or ceil size; neither neighbours nor every `groups`-th.

    Args:
      generator: of the draw.
      fields: at least 4.
      groups: at least 2, of at least 2 fields each, so that a third partition exists.

    Returns:
      Each group's fields, groups by their first field.
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
    """Distinct subsets of `order` fields, a share of them inside groups, the others over two groups or more.

    Args:
      generator: of the draw.
      order: fields of a subset.
      groups: partition of the fields.
      count: subsets wanted; all there are where there are fewer.
      inside_share: share of `count` inside groups, spread evenly over them.

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
        # Subsets over several groups are at least half of all: two fields share a group less often than not.
        subsets += draw_subsets(
            generator, order, fields, count - inside, lambda subset: len({group_of[field] for field in subset}) > 1
        )
    return subsets


def _spread(count: int, limits: Sequence[int]) -> list[int]:
    """Shares `count` evenly, none above its limit; what does not fit is left out."""
    shares = [0] * len(limits)
    left = min(count, sum(limits))
    while left:
        open_ones = [index for index, limit in enumerate(limits) if shares[index] < limit]
        for index in open_ones[:left]:
            shares[index] += 1
        left -= min(left, len(open_ones))
    return shares
