"""Opens the rows of a run; rows from raw files or a generator are prepared on first use."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wukong_jax.config import DataConfig
from wukong_jax.data.blocks.block_check import find_digests, write_note
from wukong_jax.data.blocks.loader import BlockSource
from wukong_jax.data.blocks.row_blocks import SPLITS, RowBlocks, open_row_blocks
from wukong_jax.data.blocks.row_join import JoinedBlocks, RowJoin, build_join
from wukong_jax.data.blocks.store_copy import keep_copy
from wukong_jax.data.fingerprint import (
    encoding_part,
    fingerprint_encoding,
    fingerprint_first_blocks,
    fingerprint_rows,
    has_parts,
    join_fingerprint,
    load_digests,
)
from wukong_jax.data.sources import RowSource
from wukong_jax.errors import UserError
from wukong_jax.runs.checkpoints import read_newest_progress
from wukong_jax.runs.folder import RunFolder
from wukong_jax.runs.own_rows import prepare_own_rows
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
    trained_on: str = ""  # fingerprint of the rows a run was trained on; `source` gives no others
    say: Callable[[str], None] = dataclasses.field(default=lambda text: None, compare=False, repr=False)

    def source(self, split: str) -> BlockSource:
        """Returns the rows of a split as the model reads them, including joined extras.

        Raises:
          UserError: the run was trained on other rows.
        """
        self.check()
        blocks = self.splits[split]
        return blocks if self.join is None else JoinedBlocks(blocks, self.join)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint of schema, vocabularies and all rows; see `data.fingerprint`."""
        return join_fingerprint(self._encoding, fingerprint_rows(self.splits, self._digests))

    def matches(self, saved: str) -> bool:
        """Whether a fingerprint that was saved, perhaps by an earlier version, is that of these rows."""
        return saved == (self.fingerprint if has_parts(saved) else self._first_blocks)

    def check(self) -> None:
        """Checks that these are the rows of `trained_on`, if it is known.

        Raises:
          UserError: they are not.
        """
        if self.trained_on:
            self.check_rows(self.trained_on, "give the folder of the same rows as --data")

    def check_rows(self, saved: str, fix: str) -> None:
        """Checks that these are the rows of a saved fingerprint.

        Raises:
          UserError: they are not; the message ends with `fix`.
        """
        if not self.matches(saved):
            raise UserError(f"{self.directory}: holds different rows than those this run was trained on; {fix}")

    def check_encoding(self, saved: str) -> None:
        """Checks that schema and vocabularies are those of a saved fingerprint; the rows may be others.

        A fingerprint of an earlier version has no such part, so that it is compared as a whole.

        Raises:
          UserError: they are not.
        """
        if not (encoding_part(saved) == self._encoding if has_parts(saved) else self.matches(saved)):
            raise UserError(
                f"{self.directory}: its schema or vocabularies are not those this run was trained with; give the "
                "folder of the same rows as --data"
            )

    def note_checked(self) -> None:
        """Notes the checksums that had to be computed, so that the next start need not; see `block_check`."""
        for name, blocks in self.splits.items():
            if find_digests(blocks) is None:
                with contextlib.suppress(OSError):  # a folder that others own
                    write_note(blocks.index_path, blocks.state, () if blocks.digests else self._digests[name])

    @functools.cached_property
    def _digests(self) -> dict[str, tuple[str, ...]]:
        return {name: load_digests(blocks, self.say) for name, blocks in self.splits.items()}

    @functools.cached_property
    def _encoding(self) -> str:
        return fingerprint_encoding(self.directory, self.schema)

    @functools.cached_property
    def _first_blocks(self) -> str:
        return fingerprint_first_blocks(self.directory, self.splits)

    @property
    def vocabulary(self) -> Path:
        """Folder of the vocabularies that encode raw rows."""
        return self.directory / "vocabulary"


def prepared_directory(config: DataConfig, own_directory: Path) -> Path:
    """Returns the folder of row blocks that a run reads: the one the data source names, else `own_directory`."""
    return _find_folder(config.build_source(), own_directory)


def _find_folder(source: RowSource, own_directory: Path) -> Path:
    """Returns the folder that a source names, or the kept copy of one on an object store; else `own_directory`."""
    if source.folder is None:
        return own_directory
    return keep_copy(source.folder) if isinstance(source.folder, str) else source.folder


def open_run_data(config: DataConfig, own_directory: Path, say: Callable[[str], None], saved: bool = True) -> RunData:
    """Opens a run's rows, after preparing them if necessary.

    Args:
      config: the data source.
      own_directory: `<workdir>/data`, used if the source names no folder of row blocks.
      say: prints a progress message.
      saved: whether a run may have been trained on the rows in `own_directory`. If not, they are prepared again when
        the raw files, the schema or the options have changed; if so, a change is refused.

    Raises:
      UserError: the input is missing or malformed, or has changed, or a split has no rows.
    """
    source = config.build_source()
    if source.prepare is not None:
        prepare_own_rows(config, source, own_directory, say, saved)
    return open_prepared_rows(config, _find_folder(source, own_directory), say)


def open_rows_of_run(config: DataConfig, run: RunFolder, say: Callable[[str], None], fix: str) -> RunData:
    """Opens the rows of a run that starts or goes on, after preparing them if necessary.

    Args:
      config: the data source.
      run: the run's folder.
      say: prints a progress message.
      fix: what to do if they are not the rows of the run.

    Raises:
      UserError: as `open_run_data`, or the run in the folder was trained on other rows.
    """
    if run.mirror is not None:
        run.mirror.fetch_rows(run.data)  # which the lead may have prepared just now
    data = open_run_data(config, run.data, say, saved=run.is_saved)
    run.publish_rows()
    progress = read_newest_progress(run.checkpoints)
    if progress is not None:
        data.check_rows(progress.data_fingerprint, fix)
    return data


def open_prepared_rows(config: DataConfig, directory: Path, say: Callable[[str], None]) -> RunData:
    """Opens a folder of prepared rows.

    Args:
      config: the data config, of which the join is used.
      directory: the folder.
      say: prints a progress message.

    Raises:
      UserError: the folder holds no row blocks, or no training rows.
    """
    if not (directory / "schema.json").exists():
        raise UserError(
            f"config.data.path = {config.path!r}: {directory} holds no row blocks (no schema.json); "
            "run wukong-jax prepare_data first, or use the data source 'raw'"
        )
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
    report = read_json_file(directory / "report.json", dict) or {}
    return RunData(directory, schema, splits, report, build_join(config.join, schema), say=say)
