"""Columns that are joined to rows as they are read: what another system knows of them, looked up on the host."""

from collections.abc import Mapping
from typing import Any, Protocol

from wukong_jax.data.blocks.batch import Columns
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.factories import load_factory
from wukong_jax.schema import Schema


class RowJoin(Protocol):
    """A pure function of rows, as far as what it reads stands still."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Numbers a row in each column that it adds."""

    def __call__(self, columns: Columns) -> Mapping[str, Any]:
        """The added columns of some rows: name to [rows, width] float32."""


class JoinedBlocks:
    """A block source whose blocks carry the joined columns too; they become a batch's `extras`."""

    def __init__(self, blocks: BlockSource, join: RowJoin) -> None:
        """Nothing is read yet."""
        self._blocks, self._join = blocks, join
        self.rows, self.num_blocks = blocks.rows, blocks.num_blocks

    def block_rows(self, index: int) -> int:
        """Rows of block `index`."""
        return self._blocks.block_rows(index)

    def read(self, index: int) -> Columns:
        """The rows of block `index`, with what is joined to them."""
        columns = self._blocks.read(index)
        return {**columns, **self._join(columns)}


def build_join(factory: str, options: Mapping[str, Any], schema: Schema) -> RowJoin | None:
    """Opens what a config joins to rows.

    Args:
      factory: `config.data.join.factory`, "module:function" or empty.
      options: `config.data.join.options`.
      schema: the rows' resolved schema.

    Returns:
      The join; None where there is no factory.

    Raises:
      UserError: the factory cannot be imported, or refuses an option.
    """
    return load_factory("config.data.join.factory", factory)(options, schema) if factory else None
