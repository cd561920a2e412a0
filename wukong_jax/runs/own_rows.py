"""Keeps rows that a run prepares itself in step with what they were made of: raw files, schema and options.

`made_of.json` in the folder of the rows records the options, the schema, and each raw file's path, size, time and
checksum. At every start they are compared with the config and the files as they are now. A difference prepares the rows
again, unless a run was already trained on them: then it is refused. Files that were only touched or moved are no
difference, nor are files that are gone, because the prepared rows suffice.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wukong_jax.config import DataConfig
from wukong_jax.data.sources import RowSource
from wukong_jax.errors import BusyError, UserError
from wukong_jax.files.checksum import checksum_file
from wukong_jax.files.whole_files import write_text_whole
from wukong_jax.files.whole_folder import lock_folder, rename_folder
from wukong_jax.schema import Schema
from wukong_jax.strict_mapping import build_dataclass, list_changes, to_mapping

MADE_OF = "made_of.json"
Say = Callable[[str], None]


def prepare_own_rows(config: DataConfig, source: RowSource, directory: Path, say: Say, saved: bool) -> None:
    """Prepares the rows of a source in a folder, unless the folder has them already.

    Args:
      config: the data config.
      source: its source, which has `prepare`.
      directory: the folder.
      say: prints a progress message.
      saved: whether a run may have been trained on the rows in the folder, which are then never replaced.

    Raises:
      UserError: the input is missing or malformed, or has changed since rows that must not be replaced were prepared.
    """
    rows = _OwnRows(config, source, directory, saved)
    if rows.explain_preparation():
        with _lock(directory, say):
            reason = rows.explain_preparation()  # again: another process may have prepared the rows meanwhile
            if reason:
                say(reason)
                rows.prepare()
                return
    if config.path:
        say(f"using the rows prepared earlier in {directory}; the raw files are not read again")


def _lock(directory: Path, say: Say) -> Any:
    try:
        with lock_folder(directory):
            pass
    except BusyError:
        say(f"waiting for another process that prepares rows in {directory}")
    return lock_folder(directory, wait=True)


class _OwnRows:
    """The rows in a folder and what they are made of by a config."""

    def __init__(self, config: DataConfig, source: RowSource, directory: Path, saved: bool) -> None:
        self._config, self._source, self._directory, self._saved = config, source, directory, saved
        self._path = os.path.abspath(config.path) if config.path else ""

    def explain_preparation(self) -> str:
        """Returns why the rows must be prepared, for the user; empty if they need not.

        Raises:
          UserError: they would have to be prepared again, but a run was trained on them.
        """
        if not self._directory.exists():
            return f"preparing rows in {self._directory}"
        made_of = self._read_note()
        if made_of is None:
            unknown = "" if self._saved else "it is not known what they were made of"
            return unknown and f"preparing the rows in {self._directory} again: {unknown}"
        change = self._find_change(made_of)
        if change and self._saved:
            fix = "undo the change, or give another --workdir"
            raise UserError(f"{change}, and a run was trained on the rows in {self._directory}; {fix}")
        return change and f"preparing the rows in {self._directory} again: {change}"

    def prepare(self) -> None:
        """Prepares the rows beside the folder, which they then replace."""
        fresh = self._directory.with_name(f"{self._directory.name}.fresh")
        shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
        try:
            made_of = self._describe()  # first, so that a file that changes while it is read is noticed
            if self._source.prepare is not None:
                self._source.prepare(fresh)
            write_text_whole(fresh / MADE_OF, json.dumps(made_of, indent=1) + "\n")
            rename_folder(fresh, self._directory)
        except OSError as error:
            fix = "free space or give another --workdir"
            raise UserError(f"{self._directory}: cannot write ({error.strerror}); {fix}") from None
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _read_note(self) -> dict[str, Any] | None:
        path = self._directory / MADE_OF
        if not path.exists():
            return None
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            return note if isinstance(note, dict) else None
        except ValueError:
            raise UserError(f"{path}: not JSON; remove {self._directory} to prepare the rows again") from None

    def _describe(self) -> dict[str, Any]:
        """Returns the note on rows that are prepared now."""
        config, source = self._config, self._source
        made_of = {"factory": config.factory, "path": self._path, "schema": config.schema}
        made_of |= {"options": to_mapping(config.options)}
        if source.files is None:
            return made_of
        files = [
            {"file": os.path.abspath(file), "split": split, **_describe_file(file), "checksum": checksum_file(file)}
            for file, split in source.files()
        ]
        return made_of | {"columns": to_mapping(source.schema()), "files": files}

    def _find_change(self, made_of: Mapping[str, Any]) -> str:
        """Describes the first difference between the note and now; empty if there is none."""
        config = self._config
        now = json.loads(json.dumps({"factory": config.factory, "options": to_mapping(config.options)}))
        if self._source.files is None:
            now |= {"path": self._path, "schema": config.schema}
        for key, (old, new) in list_changes({name: made_of.get(name) for name in now}, now).items():
            return f"config.data.{key} = {new!r} was {old!r}"
        if self._source.files is None:
            return ""
        return self._find_schema_change(made_of) or self._find_file_change(made_of)

    def _find_schema_change(self, made_of: Mapping[str, Any]) -> str:
        name = self._config.schema
        if self._saved and name == made_of.get("schema") and name.endswith(".json") and not Path(name).exists():
            return ""  # the prepared rows carry the schema
        old, new = build_dataclass(Schema, made_of["columns"], MADE_OF), self._source.schema()
        for key, (before, after) in list_changes(_by_name(to_mapping(old)), _by_name(to_mapping(new))).items():
            return f"config.data.schema = {name!r}: {key} = {after!r} was {before!r}"
        return ""

    def _find_file_change(self, made_of: Mapping[str, Any]) -> str:
        before = {entry["file"]: entry for entry in made_of["files"]}
        if self._path != made_of["path"]:
            return (
                "" if self._is_moved(made_of["files"]) else f"config.data.path = {self._path!r} was {made_of['path']!r}"
            )
        left = [file for file in before if Path(file).exists()]
        if not left:
            return ""
        for file in left:
            if _has_changed(Path(file), before[file]):
                return f"config.data.path = {self._config.path!r}: {file} has changed"
        listed = [os.path.abspath(file) for file, _ in self._source.files()] if self._source.files else []
        for file in listed:
            if file not in before:
                return f"config.data.path = {self._config.path!r}: {file} is new"
        if len(left) < len(before) and not self._saved:
            gone = next(file for file in before if file not in left)
            return f"config.data.path = {self._config.path!r}: {gone} is gone"
        return ""

    def _is_moved(self, before: list[dict[str, Any]]) -> bool:
        """Whether the files under the new path have the content, order and splits of those before."""
        files = self._source.files() if self._source.files else []
        return len(files) == len(before) and all(
            split == entry["split"] and file.stat().st_size == entry["bytes"] and not _has_changed(file, entry)
            for (file, split), entry in zip(files, before, strict=True)
        )


def _describe_file(file: Path) -> dict[str, int]:
    found = file.stat()
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _has_changed(file: Path, entry: Mapping[str, Any]) -> bool:
    now = _describe_file(file)
    if now["bytes"] != entry["bytes"]:
        return True
    return now["mtime_ns"] != entry["mtime_ns"] and checksum_file(file) != entry["checksum"]


def _by_name(value: Any) -> Any:
    """Turns lists of named columns into mappings, with the names in order, so that changes name the column."""
    if isinstance(value, dict):
        return {key: _by_name(item) for key, item in value.items()}
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {"names": [item["name"] for item in value]} | {item["name"]: _by_name(item) for item in value}
    return value
