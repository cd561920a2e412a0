"""Holds the rows of a period in memory, as a source of batches."""

import dataclasses
import math

from wukong_jax.data.blocks.batch import Columns


@dataclasses.dataclass(frozen=True)
class MemoryBlocks:
    """Rows in memory, read as blocks; see `data.blocks.loader.BlockSource`."""

    columns: Columns
    rows_per_block: int = 8192

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.columns["weight"])

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return math.ceil(self.rows / self.rows_per_block)

    def block_rows(self, index: int) -> int:
        """Returns the number of rows of a block."""
        return min(self.rows_per_block, self.rows - index * self.rows_per_block)

    def read(self, index: int) -> Columns:
        """Returns the rows of a block, as views."""
        own = slice(index * self.rows_per_block, (index + 1) * self.rows_per_block)
        return {name: array[own] for name, array in self.columns.items()}
