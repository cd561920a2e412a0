"""What a ladder is: a model, its sizes from small to large, and where its norm may stand."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from wukong_jax.errors import UserError

WIDTH = 16
# Where a baseline's norm may stand, as many places as Wukong has; DLRM's pairs take the place of its hidden layers.
BASELINE_NORMS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "embeddings": {"embedding_norm": True},
    "embeddings and hidden": {"embedding_norm": True, "mlp_norm": True},
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
    """A model, its sizes from small to large, and its norm placements, the first of them the usual one."""

    factory: str
    sizes: tuple[Size, ...]
    norms: Mapping[str, Mapping[str, Any]]
    width: int = WIDTH

    def size(self, name: str) -> Size:
        """The size of that name.

        Raises:
          UserError: there is none.
        """
        for size in self.sizes:
            if size.name == name:
                return size
        raise UserError(f"size {name!r}: the ladder has {', '.join(size.name for size in self.sizes)}")
