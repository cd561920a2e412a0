"""Finds out how a text file is written, from its first lines: separator, header and column names.

The rules are few. The separator is the one of tab, semicolon, pipe and comma that divides all lines into as many fields
as the first one, at least two; of several, the one with most fields, then the first in this order. The first line is a
header if it has the label's name; or if its fields are texts, all different and none a number, and a column below has
numbers, or none of its texts occurs below in its column. Values may be quoted by `"`, except in a file separated by
tabs, as in the project's reader.
"""

import csv
import dataclasses
from collections.abc import Collection, Sequence

from wukong_jax.errors import UserError
from wukong_jax.schema import Source

SEPARATORS = ("\t", ";", "|", ",")  # the comma last, as it may also be a decimal sign
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}


@dataclasses.dataclass(frozen=True)
class FileLayout:
    """How a file is written."""

    source: Source  # `missing` and `strip` are decided later
    names: tuple[str, ...]  # columns in file order, as the reader names them
    note: str  # the layout in words
    unreadable: tuple[str, ...] = ()  # Parquet: columns of types that no schema reads


def detect_text_layout(
    lines: Sequence[str],
    labels: Collection[str] = (),
    *,
    columns: Sequence[str] = (),
    separator: str | None = None,
    header: bool | None = None,
) -> FileLayout:
    """Detects the layout of a text file.

    Args:
      lines: first lines of the file, without line ends.
      labels: raw columns of the labels; a first line with one of them is a header.
      columns: names in file order of a file without a header, given by the user.
      separator: the separator if the user gave it.
      header: whether there is a header if the user said so.

    Returns:
      The layout; columns of a file without header or given names are called column_1, column_2, ...

    Raises:
      UserError: there are no lines, or given names do not fit.
    """
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UserError("empty: no line with a value")
    if separator is not None and (len(separator.encode()) != 1 or separator in '\r\n"\0'):
        raise UserError(
            f"--separator={separator}: must be one byte, and no quote or line end; blanks are trimmed anyway"
        )
    separator = separator or _detect_separator(lines)
    first, *rest = split_lines(lines, separator)
    if header is None:
        header = not columns and _is_header(first, [row for row in rest if len(row) == len(first)], labels)
    if columns and len(columns) != len(first):
        raise UserError(f"--columns: {len(columns)} names for {len(first)} columns; give one name per column")
    if header:
        names = tuple(columns) or tuple(first)
        if columns and tuple(first) != tuple(columns):
            raise UserError(
                f"--columns: the header says {', '.join(first)}; leave --columns out, or pass --header=false"
            )
    else:
        names = tuple(columns) or tuple(f"column_{position}" for position in range(1, len(first) + 1))
    source = Source("csv", separator=separator, header=header, columns=() if header else names)
    what = "a header" if header else "no header"
    return FileLayout(source, names, f"separated by {_NAMES.get(separator, repr(separator))}, {what}")


def split_lines(lines: Sequence[str], separator: str) -> list[list[str]]:
    """Splits lines into rows of fields; a quoted field may span lines, unless the rows are then less regular."""
    if separator == "\t":
        return [line.split("\t") for line in lines]
    single = [next(csv.reader([line], delimiter=separator), [""]) for line in lines]
    try:
        spanning = list(csv.reader([f"{line}\n" for line in lines], delimiter=separator))
    except csv.Error:  # a quote that is never closed
        return single
    return spanning if _regularity(spanning) > _regularity(single) else single


def is_number(text: str) -> bool:
    """Returns whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _detect_separator(lines: Sequence[str]) -> str:
    best, most = ",", 1
    for separator in SEPARATORS:
        rows = split_lines(lines, separator)
        # One broken row in ten is allowed for, as it would be a bad row later.
        if len(rows[0]) > most and _regularity(rows) >= 0.9:
            best, most = separator, len(rows[0])
    return best


def _regularity(rows: Sequence[Sequence[str]]) -> float:
    """Share of the rows that have as many fields as the first."""
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows)


def _is_header(first: Sequence[str], rest: Sequence[Sequence[str]], labels: Collection[str]) -> bool:
    stripped = [field.strip() for field in first]
    if set(labels) & set(stripped):
        return True
    if any(not field or is_number(field) for field in stripped) or len(set(stripped)) < len(stripped):
        return False
    below = [[row[position].strip() for row in rest] for position in range(len(first))]
    if any(any(is_number(value) for value in values) for values in below):
        return True
    return not any(field in values for field, values in zip(stripped, below, strict=True))
