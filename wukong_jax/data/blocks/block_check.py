"""Checks that the files of a split still hold the blocks whose checksums its index has.

Reading every block at every start would cost as much as a pass over the rows. Therefore a note beside the index,
`<split>.checked.json`, has the size and modification time of each file, and the checksum of the index, as they were
when the checksums were right. Blocks are read again only where the note is missing or does not hold any more, for
example after the folder was copied.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from wukong_jax.data.blocks.store_copy import is_store_copy
from wukong_jax.errors import UserError
from wukong_jax.files.checksum import checksum_bytes
from wukong_jax.files.whole_files import write_text_whole

State = dict[str, Any]  # of the index and the files of a split, see `describe_state`


class CheckedBlocks(Protocol):
    """The blocks of one split, as `RowBlocks`."""

    index_path: Path
    digests: tuple[str, ...]
    state: State
    num_blocks: int

    def compute_digest(self, index: int) -> str:
        """Reads a block and returns its checksum."""


def find_digests(blocks: CheckedBlocks) -> tuple[str, ...] | None:
    """Returns the checksums of a split's blocks without reading them; None if they must be read."""
    if is_store_copy(blocks.index_path.parent.parent) and len(blocks.digests) == blocks.num_blocks:
        return blocks.digests  # each block is compared when its file is fetched
    note = _read_note(blocks.index_path)
    if note.get("state") != blocks.state:
        return None
    digests = blocks.digests or tuple(note.get("digests") or ())
    return digests if len(digests) == blocks.num_blocks else None


def compute_digests(blocks: CheckedBlocks) -> tuple[str, ...]:
    """Reads all blocks of a split and returns their checksums.

    Raises:
      UserError: a block cannot be read, or has another checksum than in the index.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        digests = tuple(threads.map(blocks.compute_digest, range(blocks.num_blocks)))
    for place, (found, expected) in enumerate(zip(digests, blocks.digests, strict=False)):
        if found != expected:
            raise UserError(
                f"{blocks.index_path}: block {place} holds other rows than its index says; prepare the data again"
            )
    return digests


def describe_state(index_path: Path, index_text: str, files: Sequence[str]) -> State:
    """Describes the state of a split: the index's checksum, and each file's size and modification time.

    Args:
      index_path: path of `<split>.json`.
      index_text: its content.
      files: names of the split's files.
    """
    states = {name: describe_file(index_path.parent / name) for name in files}
    return {"index": checksum_bytes(index_text.encode()), "files": states}


def describe_file(path: Path) -> list[int]:
    """Returns a file's size in bytes and its modification time in nanoseconds; nothing if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def write_note(index_path: Path, state: State, digests: Sequence[str] = ()) -> None:
    """Notes that the checksums of a split were right in a state.

    Args:
      index_path: path of `<split>.json`.
      state: the state.
      digests: checksums of the blocks if the index has none, because an earlier version wrote it.

    Raises:
      OSError: the note cannot be written.
    """
    note: dict[str, Any] = {"state": state} | ({"digests": list(digests)} if digests else {})
    write_text_whole(_note_path(index_path), json.dumps(note, indent=1) + "\n")


def _note_path(index_path: Path) -> Path:
    return index_path.with_name(f"{index_path.stem}.checked.json")


def _read_note(index_path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        note = json.loads(_note_path(index_path).read_text(encoding="utf-8"))
        return note if isinstance(note, dict) else {}
    return {}
