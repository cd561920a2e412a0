"""Reads the names of a text file's columns from its header, or finds which columns a file without header has."""

import csv
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from wukong_jax.data.raw.quoted_records import Record, TextLayout, parse_record, quote_fields
from wukong_jax.data.raw.text_files import MAX_LINE_BYTES
from wukong_jax.errors import UserError
from wukong_jax.messages import join_some
from wukong_jax.schema import Source

_NAMES_SHOWN = 12
_NAME_CHARACTERS = 40
_ADD_HEADER = "give source.columns and source.header = false, or add the header line"


def read_column_names(
    file: BinaryIO, path: Path, source: Source, needed: Collection[str], optional: Collection[str], *, quoted: bool
) -> tuple[int, tuple[str, ...]] | None:
    """Finds the file's columns and moves the file to its first line of data.

    Args:
      file: the file, at its start.
      path: the file, for messages.
      source: the file's layout.
      needed: columns that the file must have.
      optional: columns that it may have; a file without header may lack all of them.
      quoted: whether values may be quoted.

    Returns:
      The number of the first line of data, from 1, and the name of each field; None if the header is missing, as
        all lines are blank.

    Raises:
      UserError: a needed column is missing, or the header cannot be read or is another one.
    """
    separator = source.separator if source.format == "csv" else " "
    layout = TextLayout(separator.encode(), 0, quoted)
    start = file.tell()
    text, record, line = _read_first_record(file, layout)
    if source.format == "csv" and source.header:
        if not text:
            return None
        names = _parse_header(text, record, layout, path, line)
        names = tuple(name.strip() for name in names) if source.strip else names
        _check_header(names, text, path, line, source, needed, optional)
        return line + text.count(b"\n"), names
    names = source.columns
    fields = text.count(layout.separator) + 1 if record.problem is not None else record.fields
    if optional and fields == len(names) - len(set(optional) & set(names)):
        names = tuple(name for name in names if name not in optional)
    file.seek(start)
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; it has {shorten(names)}")
    return 1, names


def shorten(names: Sequence[str]) -> str:
    """Lists the first names for a message, without characters that a terminal cannot show."""
    shown = [name if len(name) <= _NAME_CHARACTERS else name[:_NAME_CHARACTERS] + "..." for name in names]
    shown = [name if name.isprintable() else repr(name) for name in shown]
    return join_some(shown, _NAMES_SHOWN)


def _read_first_record(file: BinaryIO, layout: TextLayout) -> tuple[bytes, Record, int]:
    """Reads the first record after blank lines; returns its text, its parsed form and the number of its line."""
    line = 1
    text = file.readline(MAX_LINE_BYTES)
    while text and not text.strip(b"\r\n"):
        text, line = file.readline(MAX_LINE_BYTES), line + 1
    while True:
        whole = text if text.endswith(b"\n") else text + b"\n"
        more = file.readline(MAX_LINE_BYTES)
        record = parse_record(whole, 0, layout, at_end=not more)
        if record is not None:
            file.seek(-len(more), 1)
            return text, record, line
        text += more


def _parse_header(text: bytes, record: Record, layout: TextLayout, path: Path, line: int) -> tuple[str, ...]:
    if record.problem is not None:
        raise UserError(f"{path}, line {line}, header: {record.problem}")
    if b"\0" in text:
        raise UserError(f"{path}, line {line}, header: NUL bytes, so it is not UTF-8 text; convert the file to UTF-8")
    try:
        whole = quote_fields(text, 0, len(text), record.stray_quotes).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise UserError(f"{path}, line {line}, header: not UTF-8 text; convert the file to UTF-8") from None
    if not layout.quoted:
        return tuple(whole.split(layout.separator.decode()))
    with suppress(csv.Error):
        return tuple(next(csv.reader([whole], delimiter=layout.separator.decode())))
    raise UserError(f"{path}, line {line}, header: a name is too long; is it a header?")


def _check_header(
    names: tuple[str, ...],
    text: bytes,
    path: Path,
    line: int,
    source: Source,
    needed: Collection[str],
    optional: Collection[str],
) -> None:
    where = f"{path}, line {line}"
    missing = [name for name in (*needed, *source.columns) if name not in names and name not in optional]
    if missing and any(_is_value(name) for name in names):
        shown = shorten([text.decode(errors="replace").rstrip("\r\n")])
        raise UserError(
            f"{where} has no column {missing[0]!r}; it reads {shown!r}: does this file lack the header? {_ADD_HEADER}"
        )
    if source.columns and (missing or not set(names) <= {*source.columns}):
        raise UserError(f"{where}: header {shorten(names)}; source.columns says {shorten(source.columns)}")
    if missing:
        advice = ""
        if missing[0] in {name.strip() for name in names}:
            advice = "; to remove blanks around names and values, set source.strip = true"
        elif not {*needed, *optional} & set(names):
            advice = f"; if that is a row, the file lacks the header: {_ADD_HEADER}"
        raise UserError(f"{path}: no column {missing[0]!r}; it has {shorten(names)}{advice}")
    if len(set(names)) != len(names):
        raise UserError(f"{where}: header {shorten(names)}: a name is listed twice; rename one")


def _is_value(name: str) -> bool:
    """Whether a name looks like a value: empty or a number."""
    with suppress(ValueError):
        float(name)
        return True
    return not name.strip()
