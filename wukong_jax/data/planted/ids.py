"""Ids of users or items: hidden groups, a domain's own members and members that all domains share.

A user belongs to a hidden *segment*, an item to a hidden *category*: it is one (group, member) cell, drawn group first,
then member, both by Zipf. What is planted depends on the group alone, so that its moments are exact. A chosen share of
the cells, drawn at random over all frequencies, has one id in every domain; every other cell has an id of its own in
each domain. All domains have the same frequencies. A model sees ids only. These are our own choices.
"""

import numpy as np

from wukong_jax.data.planted.structures import ZipfSampler


class PlantedIds:
    """The ids of users, or of items, in all domains."""

    def __init__(
        self,
        generator: np.random.Generator,
        *,
        groups: int,
        members: int,
        overlap: float,
        domains: int,
        zipf_exponent: float,
    ) -> None:
        """Draws which cells are shared.

        Args:
          generator: of the draw.
          groups: segments or categories.
          members: of each group, in a domain.
          overlap: share of the cells that are the same user or item in all domains.
          domains: G.
          zipf_exponent: of the members' frequencies.
        """
        self._sampler = ZipfSampler(members, zipf_exponent)
        cells = groups * members
        order = generator.permutation(cells)
        shared, own = np.sort(order[: round(overlap * cells)]), np.sort(order[round(overlap * cells) :])
        ids = np.zeros((domains, cells), np.int32)
        ids[:, shared] = 1 + np.arange(len(shared))
        ids[:, own] = 1 + len(shared) + np.arange(domains * len(own)).reshape(domains, -1)
        self.ids = ids.reshape(domains, groups, members)  # from 1; 0, the unknown id, never occurs
        self.shared = len(shared)
        self.rows = 1 + len(shared) + domains * len(own)  # of the vocabulary, the unknown row included

    def draw(self, generator: np.random.Generator, groups: np.ndarray, domain: np.ndarray) -> np.ndarray:
        """Draws a member of each group.

        Args:
          generator: advanced by one uniform double per value.
          groups: [B, ...] int32, from 1.
          domain: [B, ...] int32, of the same number of axes.

        Returns:
          Ids of `groups`' shape, int32.
        """
        members = self._sampler.draw(generator, groups.shape)
        return self.ids[domain, groups - 1, members - 1]

    def shared_row_share(self, group_probabilities: np.ndarray) -> float:
        """The share of rows whose id is in all domains.

        Args:
          group_probabilities: of the groups.
        """
        mass = group_probabilities[:, None] * self._sampler.probabilities
        return float(mass[self.ids[0] <= self.shared].sum())
