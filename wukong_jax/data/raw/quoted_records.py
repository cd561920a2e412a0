"""Parses single records of text, with or without quotes; `records` says what a record is."""

import dataclasses
import re

MAX_QUOTED_BYTES = 1 << 20  # a quoted value that spans lines ends within this many bytes after its record's start

_QUOTED_REST = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')  # what follows an opening quote, to the closing one
_SHOWN_BYTES = 20

_NOT_DOUBLED = 'a quote (") inside a quoted value is not doubled, at {}; quote the whole value and double quotes in it'
_NOT_CLOSED = 'a quote (") is opened and not closed, at {}; quote the whole value and double quotes in it'
_RETURN_ALONE = "a carriage return alone, at {}; end lines with LF or CR LF, and quote values that hold line ends"


@dataclasses.dataclass(frozen=True)
class TextLayout:
    """How the lines of a text file are split."""

    separator: bytes  # one byte
    fields: int  # expected in every record
    quoted: bool  # whether fields may be quoted
    numbers: tuple[int, ...] = ()  # positions of fields that hold numbers
    missing: tuple[str, ...] = ()  # texts that mean "no value"


@dataclasses.dataclass(frozen=True)
class Record:
    """A record, or the reason why there is none."""

    stop: int = 0  # byte after the record's line end
    fields: int = 0
    stray_quotes: tuple[tuple[int, int], ...] = ()  # (start, stop) of fields with quotes that are not quoted
    problem: str | None = None


def parse_record(text: bytes, start: int, layout: TextLayout, *, at_end: bool) -> Record | None:
    """Parses the record that starts at a byte.

    Args:
      text: whole physical lines, each with its line end.
      start: start of the record, at a line's start.
      layout: the layout of the file.
      at_end: whether the file ends with this text.

    Returns:
      The record, with any number of fields; None if it may go on after the text.
    """
    separator = layout.separator
    line_stop = text.index(b"\n", start) + 1
    at, fields = start, 1
    stray: list[tuple[int, int]] = []
    while True:  # `at` is the start of a field; go on to the next field that has a quote
        quote = text.find(b'"', at, line_stop) if layout.quoted else -1
        unquoted_stop = quote if quote >= 0 else line_stop
        alone = _find_return_alone(text, at, unquoted_stop)
        if alone >= 0:
            return Record(problem=_RETURN_ALONE.format(_excerpt(text, alone)))
        fields += text.count(separator, at, unquoted_stop)
        if quote < 0:
            return Record(line_stop, fields, tuple(stray))
        field = max(at, text.rfind(separator, at, quote) + 1)
        if field < quote:
            stop = text.find(separator, quote, line_stop)
            content_stop = stop if stop >= 0 else line_stop - (2 if text[line_stop - 2] == ord("\r") else 1)
            alone = _find_return_alone(text, quote, content_stop)
            if alone >= 0:
                return Record(problem=_RETURN_ALONE.format(_excerpt(text, alone)))
            stray.append((field, content_stop))
            if stop < 0:
                return Record(line_stop, fields, tuple(stray))
        else:
            rest = _QUOTED_REST.match(text, quote + 1)
            stop = rest.end() if rest is not None else len(text)
            if stop > line_stop and (stop - start > MAX_QUOTED_BYTES or rest is None):
                if stop - start <= MAX_QUOTED_BYTES and not at_end:
                    return None
                return Record(problem=_NOT_CLOSED.format(_excerpt(text, quote)))
            if rest is None:  # in the last line
                return Record(problem=_NOT_CLOSED.format(_excerpt(text, quote))) if at_end else None
            if stop > line_stop:
                line_stop = text.index(b"\n", stop - 1) + 1
            if text.startswith((b"\n", b"\r\n"), stop):
                return Record(line_stop, fields, tuple(stray))
            if not text.startswith(separator, stop):
                return Record(problem=_NOT_DOUBLED.format(_excerpt(text, stop - 1)))
        fields += 1
        at = stop + 1


def quote_fields(text: bytes, start: int, stop: int, fields: tuple[tuple[int, int], ...]) -> bytes:
    """Returns a record with the given fields, which have quotes but are not quoted, quoted as RFC 4180 has it."""
    pieces, at = [], start
    for field, field_stop in fields:
        pieces += [text[at:field], b'"', text[field:field_stop].replace(b'"', b'""'), b'"']
        at = field_stop
    return b"".join([*pieces, text[at:stop]])


def _find_return_alone(text: bytes, start: int, stop: int) -> int:
    """Returns the position of a carriage return that no LF follows, or -1; the text has no LF before the line's end."""
    at = text.find(b"\r", start, stop)
    return at if at >= 0 and text[at + 1 : at + 2] != b"\n" else -1


def _excerpt(text: bytes, at: int) -> str:
    """Shows the text of a line around a position."""
    start = max(text.rfind(b"\n", 0, at) + 1, at - _SHOWN_BYTES)
    line_stop = text.find(b"\n", at)
    shown = text[start : min(line_stop, at + _SHOWN_BYTES) if line_stop >= 0 else at + _SHOWN_BYTES]
    return repr(shown.decode("utf-8", errors="replace").rstrip("\r"))
