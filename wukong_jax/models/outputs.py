"""The outputs of every model."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

# Flax collection of statistics of past batches, such as the moments of a batch norm. A model always reads it and
# updates it in training. The network's start logits are in it, too (`training.start_logits`), and never change.
STATISTICS = "statistics"


class Outputs(NamedTuple):
    """Logits and auxiliary outputs for the loss; serving reads `logits` only.

    Auxiliary outputs [B, O] whose names end in "logits" are other logits of the same objectives. The network adds its
    start logits to them as to `logits`.
    """

    logits: jax.Array  # [B, O] float32
    aux: Mapping[str, jax.Array]
