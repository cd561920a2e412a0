"""What every model returns."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class Outputs(NamedTuple):
    """Logits, and what else a loss may read; serving reads `logits` only."""

    logits: jax.Array  # [B, O] float32
    aux: Mapping[str, jax.Array]
