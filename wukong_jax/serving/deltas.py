"""Writes what changed between two artefacts of one run, and applies it to a copy of the first.

A delta holds the rows of tables whose bytes differ, and every other file that differs as a whole:

    DIR/delta.json             the manifest's digest of the artefact that it changes, and how each file is stored
    DIR/whole/manifest.json    the manifest of the new artefact
    DIR/whole/...              files that are new or differ
    DIR/rows/...npz            `ids` and `rows` of a table

An artefact with a delta applied has the files of the new one, byte by byte: its manifest has their digests.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from wukong_jax.errors import UserError
from wukong_jax.files.checksum import checksum_file
from wukong_jax.files.whole_folder import write_whole_folder
from wukong_jax.messages import describe_error, first_line
from wukong_jax.serving.artefact import MANIFEST, TABLES, check_files, read_manifest
from wukong_jax.serving.table_files import read_arrays
from wukong_jax.strict_mapping import build_dataclass, to_mapping

DELTA = "delta.json"
_FORMAT = 1
_WHOLE, _ROWS = "whole", "rows"


@dataclasses.dataclass(frozen=True)
class StoredDelta:
    """The content of `delta.json`."""

    format: int
    base: str  # digest of the manifest of the artefact that it changes
    files: dict[str, Literal["whole", "rows"]]  # how each file that differs is stored


def write_delta(base: Path, new: Path, output: Path) -> int:
    """Writes the difference between two artefacts.

    Args:
      base: the artefact that is out there.
      new: the one that it is to become.
      output: folder to create.

    Returns:
      Number of table rows in the delta.

    Raises:
      UserError: a folder is no artefact, a table of `base` was changed, or the output exists or cannot be written.
    """
    old, manifest = read_manifest(base), read_manifest(new)
    check_files(base, old, tables=True)
    stored: dict[str, Literal["whole", "rows"]] = {MANIFEST: "whole"}
    rows = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with write_whole_folder(output) as folder:
        _copy(new / MANIFEST, folder / _WHOLE / MANIFEST)
        for name, file in manifest.files.items():
            if name in old.files and old.files[name].digest == file.digest:
                continue
            changed = _find_changed_rows(base / name, new / name) if name in old.files else None
            if changed is None:
                stored[name] = "whole"
                _copy(new / name, folder / _WHOLE / name)
                continue
            stored[name] = "rows"
            path = folder / _ROWS / f"{name}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, ids=changed, rows=np.load(new / name, mmap_mode="r", allow_pickle=False)[changed])
            rows += len(changed) if name.endswith(".rows.npy") else 0
        delta = StoredDelta(_FORMAT, checksum_file(base / MANIFEST), stored)
        (folder / DELTA).write_text(json.dumps(to_mapping(delta), indent=1) + "\n", encoding="utf-8")
    return rows


def apply_delta(artefact: Path, delta: Path) -> None:
    """Turns an artefact into the one that a delta leads to, in one step: the folder is made beside, then renamed.

    Whoever has the old one loaded keeps its files.

    Raises:
      UserError: the delta is damaged or was made for another artefact, or the result is not the artefact that it
        should be; the artefact stays as it was.
    """
    stored = _read_delta(delta)
    if checksum_file(artefact / MANIFEST) != stored.base:
        manifest = read_manifest(artefact)
        raise UserError(
            f"{delta}: was made for another artefact than {artefact} (step {manifest.step}); apply the deltas in their "
            "order, or copy a whole export"
        )
    manifest = read_manifest(delta / _WHOLE)
    with write_whole_folder(artefact, replace=True) as folder:
        for name in (*manifest.files, MANIFEST):
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{delta}: lists {name!r}, which is outside the folder; make it again")
            how = stored.files.get(name)
            if how == "whole":
                _copy(delta / _WHOLE / name, target)
            elif how == "rows":
                _copy(artefact / name, target)
                _write_rows(target, delta / _ROWS / f"{name}.npz")
            else:
                _link(artefact / name, target)
        try:
            check_files(folder, manifest, tables=True)
        except UserError as error:
            reason = str(error).replace(f"{folder}/", "")
            raise UserError(f"{delta}: does not lead to the artefact that it should ({reason})") from None


def _find_changed_rows(old: Path, new: Path) -> np.ndarray | None:
    """Returns the rows of an array whose bytes differ, [n] int64; None if the file must be stored as a whole."""
    if old.parent.name != TABLES:
        return None
    before, after = (np.load(path, mmap_mode="r", allow_pickle=False) for path in (old, new))
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return None
    bits = np.dtype(f"u{after.dtype.itemsize}")  # so that NaN equals itself, and 0 is not -0
    differs = before.view(bits) != after.view(bits)
    changed = np.flatnonzero(differs.any(axis=1) if differs.ndim == 2 else differs)
    return changed if 2 * len(changed) < len(after) else None


def _read_delta(delta: Path) -> StoredDelta:
    path = delta / DELTA
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a folder that `wukong-jax export --delta_of` wrote") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({first_line(error)[:100]}); copy or make it again") from None
    stored = build_dataclass(StoredDelta, mapping, str(path))
    if stored.format != _FORMAT:
        raise UserError(f"{path}: format = {stored.format}: this version reads format {_FORMAT}; make it again")
    return stored


def _write_rows(table: Path, changed: Path) -> None:
    arrays = read_arrays(changed)
    try:
        array = np.load(table, mmap_mode="r+", allow_pickle=False)
        if arrays["rows"].dtype != array.dtype:
            raise ValueError(f"holds {arrays['rows'].dtype}")
        array[arrays["ids"]] = arrays["rows"]
        array.flush()
    except (KeyError, ValueError, IndexError, OSError) as error:
        raise UserError(f"{changed}: does not fit {table.name} ({describe_error(error)}); make it again") from None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise UserError(f"{source}: is missing; copy the whole folder again") from None


def _link(source: Path, target: Path) -> None:
    """Gives a file that does not change a second name, without a copy where the storage can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        _copy(source, target)
