"""Chooses for each batch, on the host, in how many places its bags are laid flat; see `embeddings.flat_bags`."""

from typing import NamedTuple

import numpy as np

from wukong_jax.data.blocks.batch import Batch
from wukong_jax.embeddings.exchange import Exchange
from wukong_jax.embeddings.flat_bags import choose_share, measure_lengths
from wukong_jax.sharding.mesh import batch_sharding

LEAST_SLOTS = 1 << 17  # of a batch's bags; with fewer, what a step saves is not worth another compiled program


class BagUse(NamedTuple):
    """How many places the bags of a batch take."""

    used: int = 0  # slots up to the last id of each bag
    places: int = 0  # slots or places that the step reads, on all devices together
    slots: int = 0  # slots of bags padded to their longest


def fit_bags(exchange: Exchange, batch: Batch) -> tuple[Batch, BagUse]:
    """Chooses the smallest share of the slots that holds the bags of a batch on every device.

    The choice depends on the whole batch and on where tables lie, so that it is the same on all devices, and again when
    a run is resumed.

    Args:
      exchange: the exchange.
      batch: the global batch, on the host.

    Returns:
      The batch with its `bag_share`, and the use of places. Bags stay padded where there are few slots, if the exchange
      asks for it, and where several processes share the mesh, because none sees the whole batch.
    """
    fields = [field for field in exchange.layout.fields if field.pools]
    slots = len(batch.ids) * sum(field.length for field in fields)
    if not slots or not batch_sharding(exchange.mesh).is_fully_addressable:
        return batch, BagUse()
    lengths = measure_lengths(batch.ids, [field.slots for field in fields])
    share = None
    if slots >= LEAST_SLOTS:
        full = _fill_up(lengths, batch.weight)
        fill = exchange.measure_bag_fill({field.column: full[:, i] for i, field in enumerate(fields)})
        share = None if fill is None else choose_share(fill)
    places = slots if share is None else round(slots * share.of_slots)
    return batch._replace(bag_share=share), BagUse(int(lengths.sum()), places, slots)


def _fill_up(lengths: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Repeats the rows of a batch in place of its padding, so that it needs no program of its own."""
    rows = (weight > 0) | lengths.any(axis=1)
    return lengths if rows.all() or not rows.any() else np.resize(lengths[rows], lengths.shape)
