"""The outputs of every model."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

# Flax collection of statistics of past batches, such as the moments of a batch norm. A model always reads it and
# updates it in training.
STATISTICS = "statistics"


class Outputs(NamedTuple):
    """Logits and auxiliary outputs for the loss; serving reads `logits` only."""

    logits: jax.Array  # [B, O] float32
    aux: Mapping[str, jax.Array]
