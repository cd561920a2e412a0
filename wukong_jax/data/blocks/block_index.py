"""Describes the index of row blocks, `<split>.json`: rows, files, columns, and checksums of the blocks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from wukong_jax.data.blocks.block_record import BLOCK_VERSION
from wukong_jax.errors import UserError
from wukong_jax.schema import Schema
from wukong_jax.strict_mapping import build_dataclass


@dataclasses.dataclass(frozen=True)
class BlockIndex:
    """The content of `<split>.json`."""

    version: int
    rows: int
    rows_per_block: int
    files: tuple[str, ...]  # in order, in the folder of the index
    blocks_per_file: tuple[int, ...]
    dense: tuple[str, ...]  # names of the dense columns, in order
    ids: tuple[str, ...]  # "name x slots" of the id columns, in slot order
    labels: tuple[str, ...]  # names of the objectives
    digests: tuple[str, ...] = ()  # checksum of each block's record; none in folders of earlier versions


def read_index(path: Path, schema: Schema) -> tuple[BlockIndex, str]:
    """Reads an index and compares it with the schema and the files.

    Args:
      path: the index; its files are in the same folder.
      schema: schema of the rows.

    Returns:
      The index, and its text.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is not an index of these rows.
    """
    try:
        text = path.read_text(encoding="utf-8")
        mapping = json.loads(text)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not an index of row blocks ({error}); prepare the data again") from None
    index = build_dataclass(BlockIndex, mapping, str(path))
    _check_index(index, schema, path)
    return index, text


def name_columns(schema: Schema) -> dict[str, Any]:
    """Returns the fields of an index that name the columns of a schema."""
    return {
        "dense": tuple(column.name for column in schema.dense),
        "ids": tuple(f"{column.name} x {column.max_length}" for column in schema.id_columns),
        "labels": tuple(label.name for label in schema.labels),
    }


def _check_index(index: BlockIndex, schema: Schema, path: Path) -> None:
    if index.version != BLOCK_VERSION:
        raise UserError(
            f"{path}: version = {index.version}, this program reads {BLOCK_VERSION}; prepare the data again"
        )
    for kind, expected in name_columns(schema).items():
        found = getattr(index, kind)
        if found != expected:
            raise UserError(
                f"{path}: {kind} columns {', '.join(found) or 'none'} in the blocks, {', '.join(expected) or 'none'} "
                "in schema.json; prepare the data again with this schema"
            )
    blocks = -(-index.rows // index.rows_per_block) if index.rows_per_block > 0 else -1
    if min((index.rows, *index.blocks_per_file)) < 0 or any(Path(name).name != name for name in index.files):
        raise UserError(f"{path}: has a count below 0 or the name of a file elsewhere; prepare the data again")
    if len(index.files) != len(index.blocks_per_file) or sum(index.blocks_per_file) != blocks:
        raise UserError(f"{path}: rows = {index.rows} do not fit its {len(index.files)} files; prepare the data again")
    if index.digests and len(index.digests) != blocks:
        raise UserError(f"{path}: {len(index.digests)} digests of {blocks} blocks; prepare the data again")
    for name, count in zip(index.files, index.blocks_per_file, strict=True):
        file = path.parent / name
        if file.is_file() and count > file.stat().st_size:  # a block has more than one byte
            raise UserError(f"{path}: {name} cannot hold {count} blocks; prepare the data again")
