"""The outputs of every model."""

from collections.abc import Mapping
from typing import NamedTuple

import jax


class Outputs(NamedTuple):
    """Logits and auxiliary outputs for the loss; serving reads `logits` only.

    Auxiliary outputs [B, O] whose names end in "logits" are other logits of the same objectives. The network adds its
    start logits to them as to `logits`.
    """

    logits: jax.Array  # [B, O] float32
    aux: Mapping[str, jax.Array]
