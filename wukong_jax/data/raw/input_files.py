"""Finds the raw files of an input, and the split of each file if the schema splits by file."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from wukong_jax.data.raw.splits import TEST, TRAIN, VALIDATION
from wukong_jax.errors import UserError
from wukong_jax.schema import Source, Split

_SUFFIXES = {
    "csv": (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"),
    "libfm": (".libfm", ".svm", ".txt", ".libfm.gz", ".svm.gz", ".txt.gz"),
    "parquet": (".parquet",),
}


def find_input_files(inputs: Sequence[str | Path], source: Source, split: Split) -> list[tuple[Path, int]]:
    """Lists the raw files in reading order: inputs in the given order, files of a folder or glob by name, 9 before 10.

    Args:
      inputs: files, glob patterns, or folders (in which files with the format's usual suffixes are used).
      source: layout of the files.
      split: the schema's split; if by file, the result has only the files in the folders, or among the given files,
        that its patterns match.

    Returns:
      (file, split) pairs; all are TRAIN unless the split is by file.

    Raises:
      UserError: an input or pattern matches nothing, or two patterns match the same file.
    """
    if split.by != "file":
        files = [file for name in inputs for file in _expand(str(name), source)]
        return [(file, TRAIN) for file in _refuse_repeats(files)]
    found: dict[Path, int] = {}
    for key, code in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        pattern = getattr(split, key)
        if not pattern:
            continue
        matches = [file for name in inputs for file in _match(str(name), pattern)]
        if not matches:
            where = ", ".join(map(str, inputs))
            raise UserError(f"split.{key} = {pattern!r}: matches no file of {where}; change the pattern or the input")
        for file in _refuse_repeats(matches):
            if file in found:
                raise UserError(f"split.{key} = {pattern!r}: matches {file}, which another split has; narrow a pattern")
            found[file] = code
    return list(found.items())


def _expand(name: str, source: Source) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        suffixes = _SUFFIXES[source.format]
        files = [file for file in path.iterdir() if file.is_file() and file.name.lower().endswith(suffixes)]
        if not files:
            raise UserError(f"input {name}: no file that ends in {', '.join(suffixes)}; name the files")
        return _in_order(files)
    return [path] if path.exists() else _in_order(_glob(name))


def _match(name: str, pattern: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return _in_order([file for file in path.glob(pattern) if file.is_file()])
    return [file for file in ([path] if path.exists() else _in_order(_glob(name))) if file.match(pattern)]


def _glob(name: str) -> list[Path]:
    files = [Path(match) for match in glob.glob(name) if Path(match).is_file()]
    if not files:
        raise UserError(f"input {name}: no such file or folder, and it matches none as a pattern")
    return files


def _in_order(files: list[Path]) -> list[Path]:
    def key(file: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(file))]

    return sorted(files, key=key)


def _refuse_repeats(files: list[Path]) -> list[Path]:
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UserError(f"input {file}: named twice; name it once")
        seen.add(file.resolve())
    return files
