"""Opens the rows of a run; rows from raw files or a generator are prepared on first use."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.data.blocks.row_blocks import SPLITS, RowBlocks, open_row_blocks
from wukong_jax.data.blocks.row_join import JoinedBlocks, RowJoin, build_join
from wukong_jax.errors import UserError
from wukong_jax.runs.record import read_json_file
from wukong_jax.schema import Schema, load_schema


@dataclasses.dataclass(frozen=True)
class RunData:
    """An open folder of prepared rows."""

    directory: Path
    schema: Schema  # resolved
    splits: Mapping[str, RowBlocks]  # "train", and "validation" and "test" if they have rows
    report: Mapping[str, Any]  # report.json, written when the rows were prepared
    join: RowJoin | None = None  # joins extra columns to rows while they are read

    def source(self, split: str) -> BlockSource:
        """Returns the rows of a split as the model reads them, including joined extras."""
        blocks = self.splits[split]
        return blocks if self.join is None else JoinedBlocks(blocks, self.join)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the schema, the splits' sizes and their first blocks, to recognise different rows."""
        # Hash the file's bytes, not the parsed schema: later versions may add keys.
        digest = hashlib.sha256((self.directory / "schema.json").read_bytes())
        for name, blocks in sorted(self.splits.items()):
            digest.update(f"{name} {blocks.rows} {blocks.block_rows(0)}".encode())
            for column, values in sorted(blocks.read(0).items()):
                digest.update(column.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    @property
    def vocabulary(self) -> Path:
        """Folder of the vocabularies that encode raw rows."""
        return self.directory / "vocabulary"


def prepared_directory(config: DataConfig, own_directory: Path) -> Path:
    """Returns the folder of row blocks that a run reads: the one the data source names, else `own_directory`."""
    return config.build_source().folder or own_directory


def open_run_data(config: DataConfig, own_directory: Path, say: Callable[[str], None]) -> RunData:
    """Opens a run's rows, after preparing them if necessary.

    Args:
      config: the data source.
      own_directory: `<workdir>/data`, used if the source names no folder of row blocks.
      say: prints a progress message.

    Raises:
      UserError: the input is missing or malformed, or a split has no rows.
    """
    source = config.build_source()
    directory = source.folder or own_directory
    if source.prepare is not None:
        if not directory.exists():
            say(f"preparing rows in {directory}")
            source.prepare(directory)
        elif config.path:
            say(f"using the rows prepared earlier in {directory}; the raw files are not read again")
    if not (directory / "schema.json").exists():
        raise UserError(
            f"config.data.path = {config.path!r}: {directory} holds no row blocks (no schema.json); "
            "run wukong-jax prepare_data first, or use the data source 'raw'"
        )
    data = _open(directory)
    return dataclasses.replace(data, join=build_join(config.join, data.schema))


def _open(directory: Path) -> RunData:
    schema = load_schema(directory / "schema.json")
    splits = {}
    for split in SPLITS:
        blocks = open_row_blocks(directory, split)
        if blocks.rows:
            splits[split] = blocks
    if "train" not in splits:
        raise UserError(f"{directory}: has no training rows; prepare it from other files or another split")
    for column in schema.dense:
        if column.transform == "standardise" and (column.mean is None or column.standard_deviation is None):
            raise UserError(
                f"{directory}/schema.json: column {column.name!r} has no mean or deviation; prepare it again"
            )
    return RunData(directory, schema, splits, read_json_file(directory / "report.json", dict) or {})
