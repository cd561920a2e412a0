"""Draws ids of users or items that belong to hidden groups; some ids are shared by all domains.

A user belongs to a hidden *segment*, an item to a hidden *category*. Each is a (group, member) cell: first the group is
drawn, then the member, both Zipf-distributed. Planted logits depend on the group only, so that their moments are
exact. A chosen share of the cells, drawn at random over all frequencies, has the same id in all domains; every other
cell has a separate id in each domain. Frequencies are the same in all domains. Models see only the ids. These are our
own choices.
"""

import numpy as np

from wukong_jax.data.planted.structures import ZipfSampler


class PlantedIds:
    """The ids of users or of items in all domains."""

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
        """Draws the cells that domains share.

        Args:
          generator: random generator.
          groups: number of segments or categories.
          members: number of members of each group in a domain.
          overlap: share of the cells that are the same user or item in all domains.
          domains: G.
          zipf_exponent: exponent of the members' frequencies.
        """
        self._sampler = ZipfSampler(members, zipf_exponent)
        cells = groups * members
        order = generator.permutation(cells)
        shared, own = np.sort(order[: round(overlap * cells)]), np.sort(order[round(overlap * cells) :])
        ids = np.zeros((domains, cells), np.int32)
        ids[:, shared] = 1 + np.arange(len(shared))
        ids[:, own] = 1 + len(shared) + np.arange(domains * len(own)).reshape(domains, -1)
        self.ids = ids.reshape(domains, groups, members)  # from 1; 0 (out-of-vocabulary) never occurs
        self.shared = len(shared)
        self.rows = 1 + len(shared) + domains * len(own)  # rows of the table, including row 0

    def draw(self, generator: np.random.Generator, groups: np.ndarray, domain: np.ndarray) -> np.ndarray:
        """Draws a member of each group.

        Args:
          generator: random generator, advanced by one uniform double per value.
          groups: [B, ...] int32, at least 1.
          domain: [B, ...] int32, with the same number of axes.

        Returns:
          int32 ids with the shape of `groups`.
        """
        members = self._sampler.draw(generator, groups.shape)
        return self.ids[domain, groups - 1, members - 1]

    def shared_row_share(self, group_probabilities: np.ndarray) -> float:
        """Returns the share of rows whose id is shared by all domains.

        Args:
          group_probabilities: [groups] probabilities of the groups.
        """
        mass = group_probabilities[:, None] * self._sampler.probabilities
        return float(mass[self.ids[0] <= self.shared].sum())
