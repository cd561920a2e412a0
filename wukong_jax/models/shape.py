"""Sizes of a model's inputs and outputs, which follow from the data and the embedding tables."""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp

from wukong_jax.errors import UserError
from wukong_jax.ranges import AtLeast, check_ranges


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """Sizes that a model factory receives in addition to its options."""

    dense_features: Annotated[int, AtLeast(0)]  # F_dense, may be 0
    tokens: Annotated[int, AtLeast(0)]  # N, embeddings of a row, without dense tokens; may be 0
    width: Annotated[int, AtLeast(1)]  # D
    objectives: Annotated[int, AtLeast(1)]  # O
    domains: Annotated[int, AtLeast(1)] = 1  # G
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of matrix products; parameters stay float32
    extras: tuple[tuple[str, int], ...] = ()  # (name, width) of each column joined to the rows
    token_columns: tuple[str, ...] = ()  # column of each token, "" for a token of several columns; () if unknown

    def __post_init__(self) -> None:
        """Refuses sizes that no model can have."""
        check_ranges(self)
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise UserError(f"compute_dtype = {self.compute_dtype!r}: 'float32' or 'bfloat16'")
        if self.dense_features + self.tokens == 0:
            raise UserError("tokens = 0: a model needs dense features or embeddings")

    @property
    def dtype(self) -> jnp.dtype:
        """The compute dtype as a NumPy dtype."""
        return jnp.dtype(self.compute_dtype)
