"""Finds the raw files of an input, and the split of each file if the schema splits by file.

An input is a file, a folder or a glob pattern; what exists by that very name is never taken as a pattern. Of a folder,
the files with the format's usual suffixes are read: those in the folder itself or, if there are none, those in the
folders below it (as in year=2024/part-0.parquet). Names in a folder that start with "." or "_" are no data: programs
leave such files beside data (._part-0.csv, _SUCCESS).
"""

import fnmatch
import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wukong_jax.data.raw.splits import TEST, TRAIN, VALIDATION
from wukong_jax.errors import UserError
from wukong_jax.schema import Source, Split

_SUFFIXES = {
    "csv": (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"),
    "libfm": (".libfm", ".svm", ".txt", ".libfm.gz", ".svm.gz", ".txt.gz"),
    "parquet": (".parquet",),
}
_PACKED = (".bz2", ".zst", ".zstd", ".xz", ".zip", ".7z", ".lz4", ".snappy", ".z", ".lzma")


def find_input_files(inputs: Sequence[str | Path], source: Source, split: Split) -> list[tuple[Path, int]]:
    """Lists the raw files in reading order: inputs in the given order, files of a folder or glob by name, 9 before 10.

    Args:
      inputs: files, folders or glob patterns.
      source: layout of the files.
      split: the schema's split; if by file, the result has only the files in the folders, or among the given files,
        that its patterns match.

    Returns:
      (file, split) pairs; all are TRAIN unless the split is by file.

    Raises:
      UserError: an input or pattern matches nothing, two patterns match the same file, or it is unclear which files of
        a folder are data.
    """
    source.require_raw_files()
    try:
        return _find(inputs, source, split)
    except OSError as error:
        raise UserError(f"input {error.filename}: cannot read ({error.strerror})") from None


def _find(inputs: Sequence[str | Path], source: Source, split: Split) -> list[tuple[Path, int]]:
    if split.by != "file":
        files = [file for name in inputs for file in _expand(str(name), source)]
        return [(file, TRAIN) for file in _refuse_repeats(files)]
    found: dict[Path, int] = {}
    for key, code in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        pattern = getattr(split, key)
        if not pattern:
            continue
        matches = _match([str(name) for name in inputs], pattern)
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
        return _files_of_folder(path, source)
    return [path] if path.exists() else _glob(name)


def _files_of_folder(folder: Path, source: Source) -> list[Path]:
    suffixes = _SUFFIXES[source.format]
    files = [file for file in _walk(folder, set()) if file.name.lower().endswith(suffixes + _packed(suffixes))]
    top = [file for file in files if file.parent == folder]
    if top and len(top) < len(files):
        below = next(file for file in files if file.parent != folder)
        raise UserError(
            f"input {folder}: has {top[0].name} and, in a folder below, {below.relative_to(folder)}; name the files or "
            "folders to read"
        )
    if not files:
        raise UserError(f"input {folder}: no file that ends in {', '.join(suffixes)}; name the files")
    for file in files:
        if not file.name.lower().endswith(suffixes):
            raise UserError(
                f"input {folder}: {file.relative_to(folder)} cannot be read; decompress it, or move it away"
            )
    return _in_order(files)


def _packed(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(suffix + packed for suffix in suffixes for packed in _PACKED)


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yields the files in a folder and below, without hidden ones; a folder that links lead to again counts once."""
    seen.add(folder.resolve())
    for path in folder.iterdir():
        if _is_hidden(path.name):
            continue
        if path.is_dir():
            if path.resolve() not in seen:
                yield from _walk(path, seen)
        elif path.is_file():
            yield path


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _match(names: Sequence[str], pattern: str) -> list[Path]:
    """Lists the files of a split: those whose name is the pattern itself or, if there are none, those it matches."""
    named, matched, literal = [], [], Path(pattern).parts
    for name in names:
        path = Path(name)
        if path.is_dir():
            named += [path / pattern] if (path / pattern).is_file() else []
            matched += _match_in_folder(path, pattern)
        else:
            files = [path] if path.exists() else _glob(name)
            named += [file for file in files if file.parts[-len(literal) :] == literal]
            matched += [file for file in files if file.match(pattern)]
    return named or matched


def _match_in_folder(folder: Path, pattern: str) -> list[Path]:
    try:
        if Path(pattern).is_absolute():
            raise ValueError("is absolute")
        return _in_order(_without_hidden(folder, folder.glob(pattern), pattern))
    except ValueError as error:
        raise UserError(f"split pattern {pattern!r}: {error}; give a pattern inside {folder}") from None


def _glob(name: str) -> list[Path]:
    folder, rest = Path(), Path(name).parts
    while rest and (folder / rest[0]).is_dir():
        folder, rest = folder / rest[0], rest[1:]
    pattern = str(Path(*rest))
    found = [folder / match for match in glob.glob(pattern, root_dir=folder)]
    files = _in_order(_without_hidden(folder, found, pattern))
    if not files:
        raise UserError(f"input {name}: no such file or folder, and it matches none as a pattern")
    return files


def _without_hidden(folder: Path, paths: Iterable[Path], pattern: str) -> list[Path]:
    """Keeps the files; those with a hidden name below the folder only if the pattern says how that name starts."""
    hidden = [part for part in Path(pattern).parts if _is_hidden(part)]
    return [
        path
        for path in paths
        if path.is_file()
        and all(
            not _is_hidden(part) or any(fnmatch.fnmatchcase(part, spelled) for spelled in hidden)
            for part in path.relative_to(folder).parts
        )
    ]


def _in_order(files: list[Path]) -> list[Path]:
    def key(file: Path) -> tuple[list[tuple[int, str]], str]:
        parts = re.split(r"([0-9]+)", str(file))
        return [(int(part), "") if at % 2 else (-1, part) for at, part in enumerate(parts)], str(file)

    return sorted(files, key=key)


def _refuse_repeats(files: list[Path]) -> list[Path]:
    seen: set[Path] = set()
    for file in files:
        if file.resolve() in seen:
            raise UserError(f"input {file}: named twice; name it once")
        seen.add(file.resolve())
    return files
