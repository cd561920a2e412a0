"""Counts the blocks that each process of a team reads; a config file calls `count_reads`, so that real processes do it.

TEAM_READS names a folder, which gets a file for each split and process with a line for each block that it reads. Blocks
are then written smaller, so that there are some to share.
"""

import os
from collections import defaultdict
from pathlib import Path

from wukong_jax.data.blocks.row_blocks import BlockWriter, RowBlocks
from wukong_jax.sharding.team import find_team

VARIABLE = "TEAM_READS"
BLOCK_ROWS = 512


def count_reads() -> None:
    """Counts as the environment says; does nothing if it says nothing."""
    if VARIABLE not in os.environ:
        return
    folder = Path(os.environ[VARIABLE])
    BlockWriter.__init__.__defaults__ = (BLOCK_ROWS,)
    read = RowBlocks.read

    def read_and_count(blocks: RowBlocks, index: int):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{blocks.split}-{find_team().index}").open("a", encoding="utf-8") as file:
            file.write(f"{index}\n")
        return read(blocks, index)

    RowBlocks.read = read_and_count


def list_reads(folder: Path, split: str) -> dict[int, set[int]]:
    """Returns the blocks of a split that each process has read."""
    found: dict[int, set[int]] = defaultdict(set)
    for file in folder.glob(f"{split}-*"):
        found[int(file.name.rpartition("-")[2])] |= set(map(int, file.read_text(encoding="utf-8").split()))
    return found
