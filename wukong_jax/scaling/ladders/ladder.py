"""Defines the ladder type: a model, its sizes from small to large, and what of its structure may be searched."""

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
    """A model, its sizes from small to large, and its norm placements, with the usual placement first.

    `structures` are further choices, each with its alternatives by name, the usual one first: the options that an
    alternative sets, over those of a size. Only a search over structures (`config.search.structure`) reads them.
    """

    factory: str
    sizes: tuple[Size, ...]
    norms: Mapping[str, Mapping[str, Any]]
    width: int = WIDTH
    structures: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)

    def size(self, name: str) -> Size:
        """Returns the size with the given name.

        Raises:
          UserError: the ladder has no such size.
        """
        for size in self.sizes:
            if size.name == name:
                return size
        raise UserError(f"size {name!r}: the ladder has {', '.join(size.name for size in self.sizes)}")

    def structure_options(self, chosen: Mapping[str, str]) -> dict[str, Any]:
        """Returns the options of the chosen alternatives, by choice.

        Raises:
          UserError: there is no such choice or alternative.
        """
        options: dict[str, Any] = {}
        for choice, name in chosen.items():
            alternatives = self.structures.get(choice, {})
            if name not in alternatives:
                raise UserError(f"structure {choice} = {name!r}: the ladder has {', '.join(alternatives) or 'no such'}")
            options |= alternatives[name]
        return options
