"""Reads raw files once, in chunks, and returns a profile of every column; all reading of the draft is here."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from wukong_jax.data.drafts.distinct_values import RowSample
from wukong_jax.data.drafts.file_layout import FileLayout, detect_text_layout
from wukong_jax.data.drafts.limits import Limits
from wukong_jax.data.drafts.profiles import ColumnCounter, ColumnProfile, type_name, unreadable_profile
from wukong_jax.data.raw.bad_rows import BadRows
from wukong_jax.data.raw.input_files import find_input_files
from wukong_jax.data.raw.parquet_files import read_parquet_types
from wukong_jax.data.raw.raw_files import DEFAULT_CHUNK_BYTES, check_source, read_raw_rows
from wukong_jax.data.raw.text_files import open_text, reading
from wukong_jax.errors import UserError
from wukong_jax.schema import Source, Split

_PEEK_BYTES = 1 << 20
_PEEK_LINES = 200
_BAD_SHARE = 0.1  # of the rows; with more bad rows, the layout is taken to be wrong


@dataclasses.dataclass(frozen=True)
class Scan:
    """What is known of the files after reading them once."""

    layout: FileLayout
    rows: int
    columns: tuple[ColumnProfile, ...]  # in file order
    sampled: bool  # whether the samples of the columns lack rows
    sample_rows: int
    bad_rows: int
    bad_example: str


@dataclasses.dataclass(frozen=True)
class LayoutHints:
    """What the user says of the layout."""

    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    separator: str | None = None
    header: bool | None = None


def scan_files(
    inputs: Sequence[str | Path],
    hints: LayoutHints,
    limits: Limits,
    *,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    progress: Callable[[str], None] = lambda line: None,
) -> Scan:
    """Reads raw files once and describes their columns.

    Args:
      inputs: files, folders or patterns, all of one format.
      hints: what the user says of the layout.
      limits: limits of the rules.
      chunk_bytes: bytes of raw text that are processed at once.
      progress: called with a line of text after each chunk.

    Returns:
      The layout, and a profile of every column.

    Raises:
      UserError: a file cannot be read, has no rows, or many of its rows cannot be read.
    """
    files = _find_files(inputs)
    layout = find_layout(files[0], hints)
    check_source(layout.source)
    names = tuple(name for name in layout.names if name not in layout.unreadable)
    if not names:
        raise UserError(f"{files[0]}: no column of a type that a schema reads")
    kept = max(1024, min(limits.kept_values, limits.kept_cells // len(names)))
    text_file = layout.source.format == "csv"
    counters = {name: ColumnCounter(name, kept, text_file=text_file) for name in names}
    sample = RowSample(max(1024, min(limits.sample_rows, limits.kept_cells // len(names))))
    bad_rows, rows = BadRows("skip"), 0
    for file in files:
        for raw in read_raw_rows(file, layout.source, names, bad_rows, chunk_bytes=chunk_bytes):
            frame = raw.frame
            for name, counter in counters.items():
                counter.add(frame[name])
            sample.add(frame)
            rows += frame.height
            progress(f"read {rows:,} rows, {file}")
    example = bad_rows.examples[0] if bad_rows.examples else ""
    if rows == 0 or bad_rows.count > _BAD_SHARE * (rows + bad_rows.count):
        raise UserError(
            f"{example}; {bad_rows.count:,} of {rows + bad_rows.count:,} rows cannot be read as {layout.note}: mend "
            "the file or pass --separator, --header"
        )
    frame = sample.frame()
    found = {name: counter.profile(frame[name]) for name, counter in counters.items()}
    columns = tuple(found.get(name) or unreadable_profile(name, rows) for name in layout.names)
    return Scan(layout, rows, columns, not sample.exact, frame.height, bad_rows.count, example)


def find_layout(file: Path, hints: LayoutHints) -> FileLayout:
    """Finds out the format of a file and its columns from its first bytes.

    Raises:
      UserError: the file is missing, empty or of an unknown format, or the hints do not fit it.
    """
    with reading(file), file.open("rb") as opened:
        start = opened.read(4)
    if start == b"PAR1":
        if hints.columns or hints.separator is not None or hints.header is not None:
            raise UserError(f"{file}: Parquet names its columns; leave --columns, --separator and --header out")
        types = read_parquet_types(file)
        unreadable = tuple(name for name, kind in types.items() if type_name(kind) == "other")
        return FileLayout(Source("parquet"), tuple(types), "Parquet", unreadable)
    with open_text(file) as text:
        head = text.read(_PEEK_BYTES)
    try:
        return _check_names(
            detect_text_layout(
                _first_lines(head),
                hints.labels,
                columns=hints.columns,
                separator=hints.separator,
                header=hints.header,
            )
        )
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _first_lines(text: bytes) -> list[str]:
    lines = text.decode(errors="replace").split("\n")
    if len(text) == _PEEK_BYTES and len(lines) > 1:
        del lines[-1]  # cut off
    return [line.rstrip("\r") for line in lines[:_PEEK_LINES]]


def _check_names(layout: FileLayout) -> FileLayout:
    twice = next((name for name in layout.names if layout.names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"column {twice!r} is named twice; rename one")
    return layout


def _find_files(inputs: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for name in inputs:
        folder = Path(name)
        parquet = folder.is_dir() and any(folder.glob("*.parquet"))
        source = Source("parquet" if parquet else "csv")
        found += [file for file, _ in find_input_files([name], source, Split())]
    return found
