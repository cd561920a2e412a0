"""Adds columns to rows as they are read, such as values that another system looks up on the host."""

from collections.abc import Mapping
from typing import Any, Protocol

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.factories import Part
from wukong_jax.schema import Schema


class RowJoin(Protocol):
    """Computes additional columns; a pure function of the rows as long as the data that it reads does not change."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each added column (numbers per row), by name."""

    def __call__(self, columns: Columns) -> Mapping[str, Any]:
        """Returns the added columns of the given rows, [rows, width] float32 by name."""


class JoinedBlocks:
    """A block source that adds the joined columns to its blocks; they become a batch's `extras`."""

    def __init__(self, blocks: BlockSource, join: RowJoin) -> None:
        """Wraps `blocks` without reading anything yet."""
        self._blocks, self._join = blocks, join
        self.rows, self.num_blocks = blocks.rows, blocks.num_blocks

    def block_rows(self, index: int) -> int:
        """Returns the number of rows of block `index`."""
        return self._blocks.block_rows(index)

    def read(self, index: int) -> Columns:
        """Returns the rows of block `index` with the joined columns."""
        columns = self._blocks.read(index)
        return {**columns, **self._join(columns)}


def build_join(join: Part, schema: Schema) -> RowJoin | None:
    """Opens what a config joins to rows.

    Args:
      join: `config.data.join`, with or without a factory.
      schema: the rows' resolved schema.

    Returns:
      The join; None where there is no factory.

    Raises:
      UserError: the factory cannot be imported, or refuses an option.
    """
    return join.build("config.data.join", schema) if join.factory else None
