"""Fingerprints of prepared rows: which encoding, and which rows, a run was trained on.

A fingerprint is "2:<encoding>:<rows>", 16 hexadecimal digits each. The encoding is the schema and the vocabularies,
which is all that is needed to score new rows. The rows are all blocks of all splits, by their checksums. Runs of
earlier versions have a fingerprint of 16 digits, which covers the schema and the first block of each split only.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from wukong_jax.data.blocks.block_check import compute_digests, find_digests
from wukong_jax.data.blocks.row_blocks import RowBlocks
from wukong_jax.data.raw.vocabulary import load_vocabulary, vocabulary_path
from wukong_jax.schema import Schema

_MARK = "2:"
_MANY_ROWS = 1_000_000  # more than this take seconds to read
_TEXTS_AT_ONCE = 1 << 20


def join_fingerprint(encoding: str, rows: str) -> str:
    """Returns the fingerprint of an encoding and of rows."""
    return f"{_MARK}{encoding}:{rows}"


def has_parts(fingerprint: str) -> bool:
    """Whether a stored fingerprint has an encoding and rows, unlike those of earlier versions."""
    return fingerprint.startswith(_MARK)


def encoding_part(fingerprint: str) -> str:
    """Returns the encoding of a fingerprint that has parts."""
    return fingerprint.split(":")[1]


def fingerprint_encoding(directory: Path, schema: Schema) -> str:
    """Returns a digest of schema.json and of the values of every vocabulary in id order.

    Args:
      directory: a prepared data folder.
      schema: its schema.

    Raises:
      UserError: a vocabulary cannot be read.
    """
    # Hash the file's bytes, not the parsed schema: later versions may add keys.
    digest = hashlib.sha256((directory / "schema.json").read_bytes())
    vocabularies = directory / "vocabulary"
    for name in sorted({column.vocabulary for column in schema.id_columns}):
        digest.update(f"\n{name}\n".encode())
        if vocabulary_path(vocabularies, name).exists():  # hash and identity columns have none
            _add_texts(digest, load_vocabulary(vocabularies, name).values)
    return digest.hexdigest()[:16]


def load_digests(blocks: RowBlocks, say: Callable[[str], None]) -> tuple[str, ...]:
    """Returns the checksums of a split's blocks, after reading all blocks if the files may have changed.

    Args:
      blocks: blocks of the split.
      say: prints a message if that takes a while.

    Raises:
      UserError: a block cannot be read, or is not the one that the index describes.
    """
    digests = find_digests(blocks)
    if digests is not None:
        return digests
    if blocks.rows >= _MANY_ROWS:
        say(f"reading {blocks.index_path.parent}, {blocks.split}, once: the checksums of its blocks are not known")
    return compute_digests(blocks)


def fingerprint_rows(splits: Mapping[str, RowBlocks], digests: Mapping[str, Sequence[str]]) -> str:
    """Returns a digest of all rows of all splits.

    Args:
      splits: blocks of the splits that have rows.
      digests: checksums of their blocks.
    """
    digest = hashlib.sha256()
    for name, blocks in sorted(splits.items()):
        digest.update(f"{name} {blocks.rows} {blocks.rows_per_block} {' '.join(digests[name])}\n".encode())
    return digest.hexdigest()[:16]


def fingerprint_first_blocks(directory: Path, splits: Mapping[str, RowBlocks]) -> str:
    """Returns the fingerprint of earlier versions: a digest of schema, sizes of splits and their first blocks."""
    digest = hashlib.sha256((directory / "schema.json").read_bytes())
    for name, blocks in sorted(splits.items()):
        digest.update(f"{name} {blocks.rows} {blocks.block_rows(0)}".encode())
        for column, values in sorted(blocks.read(0).items()):
            digest.update(column.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def _add_texts(digest: "hashlib._Hash", texts: pl.Series) -> None:
    for part in texts.to_frame().iter_slices(_TEXTS_AT_ONCE):
        values = part.to_series()
        digest.update(values.str.len_bytes().to_numpy().astype("<u4").tobytes())
        digest.update("".join(values.to_list()).encode())
