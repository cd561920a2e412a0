"""Defines the batch, the format in which rows are passed from the loader to the train step."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy on the host, jax.Array on devices


@dataclasses.dataclass(frozen=True)
class BagShare:
    """Share of the slots of bags for which a step has places; see `embeddings.flat_bags`.

    It belongs to a batch's structure, so that each share has a program of its own (registered in that module, because
    this one does without JAX).
    """

    of_slots: float


class Batch(NamedTuple):
    """`B` rows with static shapes; padding rows have weight 0, and all sums are weighted.

    Fields that the data does not have are zeros, so the structure is always the same.
    """

    dense: Array  # [B, F_dense] float32, transformed
    ids: Array  # [B, S] int32, each slot's id within its column's vocabulary, -1 = no id
    labels: Array  # [B, O] float32, 0 where masked
    label_mask: Array  # [B, O] float32, 1 = the objective was observed
    domain: Array  # [B] int32
    group: Array  # [B] int32, group for GAUC (grouped AUC)
    timestamp: Array  # [B] int64 seconds on the host; never sent to devices
    weight: Array  # [B] float32, 0 = padding
    extras: Mapping[str, Array]  # additional columns that only some models need; empty by default
    bag_share: BagShare | None = None  # bags are laid flat in that many places; None: padded to their longest


# dtype of each columnar array, in blocks and batches.
COLUMN_DTYPES: Mapping[str, np.dtype] = {
    "dense": np.dtype(np.float32),
    "ids": np.dtype(np.int32),
    "labels": np.dtype(np.float32),
    "label_mask": np.dtype(np.float32),
    "domain": np.dtype(np.int32),
    "group": np.dtype(np.int32),
    "timestamp": np.dtype(np.int64),
    "weight": np.dtype(np.float32),
}

# Columns of rows before they are batched: name -> array of [rows] or [rows, width].
Columns = Mapping[str, np.ndarray]
