"""What every model returns."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

# Flax's collection of what a model keeps of past batches, such as the moments of a batch norm. Read always, written
# where it trains.
STATISTICS = "statistics"


class Outputs(NamedTuple):
    """Logits, and what else a loss may read; serving reads `logits` only."""

    logits: jax.Array  # [B, O] float32
    aux: Mapping[str, jax.Array]
