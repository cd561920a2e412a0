"""Joins the blocks that several processes have written to the blocks of one data set."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from wukong_jax.data.blocks.block_check import describe_state, write_note
from wukong_jax.data.blocks.block_index import BlockIndex
from wukong_jax.data.blocks.record_files import writing
from wukong_jax.strict_mapping import build_dataclass, to_mapping


def merge_split(directory: Path, parts: Sequence[Path], split: str) -> None:
    """Moves the record files of a split into one folder, in the order of the parts, and writes their index.

    Args:
      directory: the data directory.
      parts: directories with `blocks/`, on the same disk; all blocks but the last of all have the same number of rows.
      split: name of the split.

    Raises:
      UserError: a file cannot be moved or written.
    """
    folder = directory / "blocks"
    with writing(folder):
        folder.mkdir(exist_ok=True)
        indices = []
        for part in parts:
            path = part / "blocks" / f"{split}.json"
            indices.append(build_dataclass(BlockIndex, json.loads(path.read_text(encoding="utf-8")), str(path)))
        sources = [part / "blocks" / name for part, index in zip(parts, indices, strict=True) for name in index.files]
        names = [f"{split}-{number:05d}.array_record" for number in range(len(sources))]
        for source, name in zip(sources, names, strict=True):
            source.rename(folder / name)
        merged = dataclasses.replace(
            indices[0],
            rows=sum(index.rows for index in indices),
            files=tuple(names),
            blocks_per_file=tuple(itertools.chain.from_iterable(index.blocks_per_file for index in indices)),
            digests=tuple(itertools.chain.from_iterable(index.digests for index in indices)),
        )
        path = folder / f"{split}.json"
        text = json.dumps(to_mapping(merged), indent=1) + "\n"
        path.write_text(text, encoding="utf-8")
        write_note(path, describe_state(path, text, names))
