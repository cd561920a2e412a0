"""Defines the ladder type: a model, its sizes from small to large, and its possible norm placements."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from wukong_jax.errors import UserError

WIDTH = 16
# Norm placements of the baselines, as many as for Wukong; for DLRM, pairs are used instead of hidden layers.
BASELINE_NORMS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "embeddings": {"embedding_norm": True},
    "embeddings and hidden": {"embedding_norm": True, "mlp_norm": "layer"},
}
DLRM_NORMS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "embeddings": {"embedding_norm": True},
    "pairs": {"pair_norm": True},
}


@dataclasses.dataclass(frozen=True)
class Size:
    """A model at one size."""

    name: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A model, its sizes from small to large, and its norm placements, with the usual placement first."""

    factory: str
    sizes: tuple[Size, ...]
    norms: Mapping[str, Mapping[str, Any]]
    width: int = WIDTH

    def size(self, name: str) -> Size:
        """Returns the size with the given name.

        Raises:
          UserError: the ladder has no such size.
        """
        for size in self.sizes:
            if size.name == name:
                return size
        raise UserError(f"size {name!r}: the ladder has {', '.join(size.name for size in self.sizes)}")
