r"""Splits text into records, one a row, independently of the parser that reads their values.

The dialect is defined on every input:

- A field that starts with `"` is quoted. It ends at a `"` that a separator, a line end or the end of the file follows;
  `""` inside it is one quote; it may hold separators and line ends. A `"` inside a field that starts otherwise is data,
  as for Python's csv module. TSV and libfm have no quotes: there every `"` is data.
- A line ends with LF or CR LF; the last one may lack it.
- A blank line is no record. In a file of one column it is a record, whose value is the empty text.

A physical line is refused, as a bad row, if the record that starts there

- has a quote inside a quoted field that is not doubled,
- has a quote that is not closed within `MAX_QUOTED_BYTES` or the file,
- has another number of fields than expected,
- has a carriage return alone outside quotes, a NUL byte, or bytes that are not UTF-8, or
- spans several lines that each could be a row: split at every separator, it has the expected number of fields, more
  than one, and numbers or missing values where the schema wants numbers. There, two stray quotes swallowed rows.

Reading goes on at the next physical line, so that a bad row never takes a neighbour with it. What is refused does not
depend on where the text is cut into chunks: an unfinished record at the end is left to the next chunk.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from wukong_jax.data.raw.quoted_records import TextLayout, parse_record, quote_fields

_LF, _CR, _QUOTE, _NUL = b'\n\r"\0'
_CACHED_BYTES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a piece of text."""

    text: bytes  # the records, each with the expected number of fields; quotes are only as RFC 4180 has them
    lines: np.ndarray  # [records] int64, the physical line where each starts, from 0
    refused: list[tuple[int, str]]  # (physical line, problem), in order
    consumed_bytes: int  # the rest of the text is an unfinished record
    consumed_lines: int


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The physical lines of a text."""

    ends: np.ndarray  # [lines] int64, byte after the line end
    fields: np.ndarray  # [lines] int64, as if the line were a record; meaningless for special lines
    special: np.ndarray  # [lines] bool, lines that are not records without quotes or with well-formed, closed ones

    def start(self, line: int) -> int:
        return int(self.ends[line - 1]) if line else 0


def is_regular(text: bytes, rows: int, layout: TextLayout) -> bool:
    """Whether every line of a text without quotes is a record, given that no line has more fields than expected.

    As no line has more, the total number of separators is right only if it is right on every line.
    """
    if b"\0" in text or (b"\r" in text and text.count(b"\r") - text.endswith(b"\r") != text.count(b"\r\n")):
        return False
    data = np.frombuffer(text, np.uint8)
    lines, separators, separator = int(not text.endswith(b"\n")), 0, layout.separator[0]
    for start in range(0, len(data), _CACHED_BYTES):
        piece = data[start : start + _CACHED_BYTES]
        lines += int(np.count_nonzero(piece == _LF))
        separators += int(np.count_nonzero(piece == separator))
    return lines == rows and separators == rows * (layout.fields - 1)


def split_records(text: bytes, layout: TextLayout, *, at_end: bool, check_utf8: bool = True) -> Records:
    """Splits a text that starts at a record's start and ends at a line end or at the end of the file.

    Args:
      text: whole physical lines.
      layout: the layout of the file.
      at_end: whether the file ends with this text.
      check_utf8: whether to refuse lines that are not UTF-8.

    Returns:
      The records; unless `at_end`, an unfinished record may be left at the end.
    """
    if not text.endswith(b"\n"):
        text += b"\n"
    lines = _find_lines(text, layout)
    foreign = _find_foreign(text, lines) if check_utf8 else np.zeros(len(lines.ends), bool)
    walk = _Walk(text, layout, lines, foreign, at_end)
    walk.run()
    return walk.records()


def _line_pieces(text: bytes) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of pieces of whole lines that are small enough to stay in the processor's cache."""
    start = 0
    while start < len(text):
        stop = text.find(b"\n", start + _CACHED_BYTES) + 1 or len(text)
        yield start, stop
        start = stop


def _find_lines(text: bytes, layout: TextLayout) -> _Lines:
    data = np.frombuffer(text, np.uint8)
    has_return, has_nul = b"\r" in text, b"\0" in text
    pieces = []
    for start, stop in _line_pieces(text):
        piece = data[start:stop]
        marks = (piece == _LF) | (piece == layout.separator[0])
        quoted = layout.quoted and text.find(b'"', start, stop) >= 0
        at = np.flatnonzero(marks | (piece == _QUOTE) if quoted else marks)
        kinds = piece[at]
        newlines = np.flatnonzero(kinds == _LF)
        ends = at[newlines] + 1
        special, outside = np.zeros(len(ends), bool), kinds == layout.separator[0]
        if quoted:
            inside = _find_quoted(kinds == _QUOTE, newlines)
            special |= inside[newlines]
            special[np.searchsorted(ends, _malformed(data, start + at, kinds, inside, layout) - start, "right")] = True
            outside &= ~inside
        if has_return:
            returns = np.flatnonzero(piece == _CR)
            special[np.searchsorted(ends, returns[data[start + returns + 1] != _LF], "right")] = True
        if has_nul:
            special[np.searchsorted(ends, np.flatnonzero(piece == _NUL), "right")] = True
        fields = np.diff(np.cumsum(outside)[newlines], prepend=0) + 1
        pieces.append((start + ends, fields, special))
    return _Lines(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


def _find_quoted(quotes: np.ndarray, newlines: np.ndarray) -> np.ndarray:
    """Whether each mark is inside quotes (an opening quote is), if no line starts inside: parity within the line."""
    inside = np.bitwise_xor.accumulate(quotes.view(np.uint8)).view(bool)
    before = np.concatenate([[False], inside[newlines[:-1]]])
    if before.any():
        inside = inside ^ np.repeat(before, np.diff(newlines, prepend=-1))
    return inside


def _malformed(
    data: np.ndarray, at: np.ndarray, kinds: np.ndarray, inside: np.ndarray, layout: TextLayout
) -> np.ndarray:
    """Returns the positions of quotes that open after, or close before, anything but what may be there."""
    quotes, separator = kinds == _QUOTE, layout.separator[0]
    opening, closing = at[quotes & inside], at[quotes & ~inside]
    before, after = data[opening - 1], data[closing + 1]
    starts = (before == separator) | (before == _LF) | (before == _QUOTE) | (opening == 0)
    stops = (after == separator) | (after == _LF) | (after == _QUOTE)
    if not stops.all():
        returns = closing[~stops & (after == _CR)]
        stops[~stops & (after == _CR)] = data[returns + 2] == _LF  # the text ends with LF
    return np.concatenate([opening[~starts], closing[~stops]])


def _find_foreign(text: bytes, lines: _Lines) -> np.ndarray:
    """Marks the lines that are not UTF-8, [lines] bool."""
    foreign = np.zeros(len(lines.ends), bool)
    if text.isascii():
        return foreign
    for start, stop in _line_pieces(text):
        if _is_utf8(text[start:stop]):
            continue
        first, last = np.searchsorted(lines.ends, [start, stop], "right")
        for line in range(int(first), int(last)):
            foreign[line] = not _is_utf8(text[lines.start(line) : int(lines.ends[line])])
    return foreign


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Walk:
    """Goes over the special lines in order and decides which lines are records."""

    def __init__(self, text: bytes, layout: TextLayout, lines: _Lines, foreign: np.ndarray, at_end: bool) -> None:
        self._text, self._layout, self._lines, self._foreign, self._at_end = text, layout, lines, foreign, at_end
        self._special = lines.special | foreign
        self._first = ~self._special & (lines.fields == layout.fields)  # the line starts a record
        self._later = np.zeros(len(lines.ends), bool)  # the line goes on with a record
        self._rewritten: dict[int, tuple[int, bytes]] = {}  # first line -> (line after, the record as RFC 4180 has it)
        self._refused: dict[int, str] = {}
        self._consumed = len(lines.ends)

    def run(self) -> None:
        """Decides about every special line, from which a record may span several lines."""
        special = np.flatnonzero(self._special)
        starts = np.where(special > 0, self._lines.ends[special - 1], 0)
        next_line = 0
        for line, start, end in zip(special.tolist(), starts.tolist(), self._lines.ends[special].tolist(), strict=True):
            if line < next_line:
                continue
            record = parse_record(self._text, start, self._layout, at_end=self._at_end)
            if record is None:
                self._consumed = line
                return
            next_line = line + 1
            if record.problem is None and record.stop > end:
                next_line = int(np.searchsorted(self._lines.ends, record.stop)) + 1
            problem = record.problem or self._problem(line, next_line, record.fields)
            if problem is not None:
                self._refused[line] = problem
                next_line = line + 1
                continue
            self._first[line] = True
            if next_line > line + 1:
                self._first[line + 1 : next_line], self._later[line + 1 : next_line] = False, True
            if record.stray_quotes:
                text = quote_fields(self._text, start, record.stop, record.stray_quotes)
                self._rewritten[line] = next_line, text

    def _problem(self, line: int, stop: int, fields: int) -> str | None:
        """Returns what is wrong with the record on the lines from `line` to before `stop`."""
        start, end, expected = self._lines.start(line), int(self._lines.ends[stop - 1]), self._layout.fields
        if self._foreign[line]:
            return f"{self._text[start : self._lines.ends[line]].rstrip()[:60]!r}: not UTF-8 text"
        if self._text.find(b"\0", start, end) >= 0:
            return "a NUL byte: not text; remove it"
        if stop > line + 1 and self._foreign[line:stop].any():
            return "a quoted value that is not UTF-8 text"
        if fields != expected:
            spans = f" on lines that a quoted value joins ({stop - line})" if stop - line > 1 else ""
            return f"{fields} columns{spans}: expected {expected}"
        if stop - line > 1 and expected > 1 and all(self._is_row(at) for at in range(line, stop)):
            return (
                f'a quote (") joins {stop - line} lines, each of which could be a row of {expected} columns: if so, '
                "quote the whole value and double quotes in it; else write the value without line ends"
            )
        return None

    def _is_row(self, line: int) -> bool:
        """Whether a line could be a row, or is blank."""
        text = self._text[self._lines.start(line) : int(self._lines.ends[line])].rstrip(b"\r\n")
        fields = text.split(self._layout.separator)
        return not text or (
            len(fields) == self._layout.fields and all(self._is_number(fields[at]) for at in self._layout.numbers)
        )

    def _is_number(self, field: bytes) -> bool:
        value = field.decode(errors="replace").strip(' \t"')
        with suppress(ValueError):
            float(value)
            return True
        return not value or value in self._layout.missing

    def records(self) -> Records:
        """Returns the records that end within the consumed lines."""
        lines, consumed, expected = self._lines, self._consumed, self._layout.fields
        for line in np.flatnonzero(~(self._first | self._later | self._special)[:consumed]).tolist():
            if expected == 1 or self._text[lines.start(line) : lines.ends[line]].strip(b"\r\n"):
                self._refused[line] = f"{lines.fields[line]} columns: expected {expected}"
        stop = lines.start(consumed)
        return Records(
            text=self._joined_text(),
            lines=np.flatnonzero(self._first[:consumed]),
            refused=sorted(self._refused.items()),
            consumed_bytes=stop,
            consumed_lines=consumed,
        )

    def _joined_text(self) -> bytes:
        """Joins the text of the records; it is the text itself if all is kept as it is."""
        kept = (self._first | self._later)[: self._consumed]
        for line, (stop, _) in self._rewritten.items():
            kept[line:stop] = False
        if kept.all() and self._consumed == len(self._lines.ends):
            return self._text
        edges = np.flatnonzero(np.diff(kept, prepend=False, append=False)).reshape(-1, 2)
        runs = {a: self._text[self._lines.start(a) : self._lines.start(b)] for a, b in edges.tolist()}
        pieces = runs | {line: text for line, (_, text) in self._rewritten.items()}
        return b"".join(pieces[line] for line in sorted(pieces))
