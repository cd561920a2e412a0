"""The batch: the one shape in which rows travel from the loader to the step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy on the host, jax.Array on devices


class Batch(NamedTuple):
    """`B` rows with static shapes; padding rows have weight 0 and every sum is weighted.

    A field that the data does not have is zeros, so the structure never changes.
    """

    dense: Array  # [B, F_dense] float32, transformed
    ids: Array  # [B, S] int32, each slot's id within its own column, -1 = no id
    labels: Array  # [B, O] float32, 0 where masked
    label_mask: Array  # [B, O] float32, 1 = the objective was observed
    domain: Array  # [B] int32
    group: Array  # [B] int32, groups of GAUC
    timestamp: Array  # [B] int64 seconds on the host; never sent to devices
    weight: Array  # [B] float32, 0 = padding
    extras: Mapping[str, Array]  # what only one system needs; empty by default


# dtype of each columnar array, in blocks as in batches.
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
